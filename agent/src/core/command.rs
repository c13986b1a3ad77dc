//! What the core decides and the driver does.

use std::path::PathBuf;

use trainyard_types::trainer::{CheckpointSaved, Finished, TrainerControl, TrainerEvent};
use trainyard_types::{Assignment, AttemptId, ReportBody, Slot, Time, Unfit};

use crate::host::loader_workers::HostOomRecord;
use crate::message::{PathUse, Picture, Prepared};

/// What the driver must do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Check the data, fetch the checkpoint and choose the batch size.
    Prepare(Box<Assignment>),
    /// Print the lines that tell of the start.
    Announce(Vec<String>),
    /// Start the trainer.
    Spawn(Box<Assignment>, Prepared),
    /// SIGTERM to the trainer.
    Terminate(AttemptId),
    /// SIGKILL to the trainer's process group.
    Kill(AttemptId),
    /// Write a report to the spool, from which it is sent.
    Report(AttemptId, Time, ReportBody),
    /// Upload a checkpoint's files.
    UploadCheckpoint(AttemptId, CheckpointSaved),
    /// Upload those pictures of a running trainer that are not among the ones that are stored.
    UploadPictures(AttemptId, Vec<Picture>),
    /// Upload no further picture: something else matters more.
    PausePictures(AttemptId),
    /// Upload what the user keeps.
    UploadArtifacts(AttemptId, Vec<PathBuf>),
    /// Remember across a restart what is to be uploaded.
    SaveHandIn(AttemptId, Finished),
    /// Find out what the process of a trainer does that makes no progress.
    DiagnoseStall(AttemptId),
    /// Test the device on which an attempt has failed, because the machine lacks something.
    TestDevice(AttemptId, Slot, Unfit),
    /// Remember that a path that a job names cannot be read here.
    NoteMissingPath {
        /// What the path is to the job.
        path_use: PathUse,
        /// The path as the job names it.
        named: PathBuf,
        /// The path below it that is missing, where that is known.
        below: Option<PathBuf>,
    },
    /// Close the slots that are held by trainers that do not end, each with a sentence, and no other ones.
    CloseStuckSlots(Vec<(Slot, String)>),
    /// Abort preparation and uploads.
    CancelTransfers(AttemptId),
    /// Ask something of the running trainer.
    Control(AttemptId, TrainerControl),
    /// Remember what the job's trainer had when main memory ran out.
    SaveHostOom(AttemptId, HostOomRecord),
    /// Learn from what the trainer told how much memory such jobs need.
    UpdateFitRecords(AttemptId, TrainerEvent),
    /// Remember that files hold every image of a data set, decoded at one size.
    NoteDecodedData {
        /// The data set as the job's spec names it.
        data: String,
        /// Pixels along an image's side.
        imgsz: u32,
        /// The files' paths.
        files: Vec<PathBuf>,
    },
    /// Delete the attempt's spool.
    DropReports(AttemptId),
    /// Delete the job's checkpoints: it has succeeded.
    DropCheckpoints(AttemptId),
    /// End the agent's process.
    Exit,
}
