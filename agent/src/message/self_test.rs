//! What the task that tests devices is asked for.

use tokio::sync::{mpsc, oneshot};
use trainyard_types::{GpuUuid, Unfit};

use crate::device::Device;

/// So many requests may wait.
const WAITING: usize = 64;

/// A request to the task that tests devices.
#[derive(Debug)]
pub enum SelfTestRequest {
    /// A start has failed on the device, because the machine lacks something; the answer comes after the test.
    TestAfterFailure(Device, Unfit, oneshot::Sender<()>),
    /// A person says that a GPU is sound; `None` for every device.
    Clear(Option<GpuUuid>),
    /// A job has come to the device.
    JobArrived(Device),
}

/// Where requests for self-tests are sent.
#[derive(Debug, Clone)]
pub struct SelfTestRequests(mpsc::Sender<SelfTestRequest>);

impl SelfTestRequests {
    /// The sending and the receiving end.
    pub fn channel() -> (Self, mpsc::Receiver<SelfTestRequest>) {
        let (sender, requests) = mpsc::channel(WAITING);
        (Self(sender), requests)
    }

    /// Has a device tested on which a start has failed, and closed if it fails the test. Returns when the scheduler
    /// knows of it, if the scheduler is there.
    pub async fn test_after_failure(&self, device: Device, lack: Unfit) {
        let (done, tested) = oneshot::channel();
        if self.0.send(SelfTestRequest::TestAfterFailure(device, lack, done)).await.is_ok() {
            // The task is gone when the agent is leaving.
            let _leaving = tested.await;
        }
    }

    /// Has a GPU tested now, or with `None` every device.
    pub fn clear(&self, gpu: Option<GpuUuid>) {
        // Full: somebody is clearing very fast, and can do so again.
        let _dropped = self.0.try_send(SelfTestRequest::Clear(gpu));
    }

    /// Tells that a job has come to a device: a routine test there waits for another hour.
    pub fn job_arrived(&self, device: Device) {
        // Full: the test goes on, and ends by itself.
        let _dropped = self.0.try_send(SelfTestRequest::JobArrived(device));
    }
}
