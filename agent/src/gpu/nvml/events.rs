//! XIDs as the driver tells them, waited for on a thread of its own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml};
use tokio::sync::mpsc;
use tracing::{debug, warn};
use trainyard_types::GpuUuid;

use super::{Shared, XidEvent};

/// How long one wait lasts; so soon the thread notices that the library was loaded again.
const WAIT: Duration = Duration::from_millis(500);

/// How soon a wait that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// GPUs by the handles under which events name them.
type Handles = Vec<(usize, GpuUuid)>;

/// Starts the thread; it ends when nobody receives any more.
pub fn start(shared: Arc<Shared>, found: mpsc::Sender<XidEvent>) {
    let started = thread::Builder::new().name("xids".into()).spawn(move || {
        while !found.is_closed() {
            let why = watch(&shared, &found);
            debug!(why, "XIDs are waited for again");
            thread::sleep(RETRY);
        }
    });
    if let Err(error) = started {
        warn!(%error, "no thread for the driver's events: XIDs are not seen");
    }
}

/// Waits for events until something fails; returns what.
fn watch(shared: &Shared, found: &mpsc::Sender<XidEvent>) -> String {
    let (nvml, generation) = match shared.nvml() {
        Ok(loaded) => loaded,
        Err(error) => return error.to_string(),
    };
    let known_before = shared.state().known.len();
    let (set, handles) = match register(shared, &nvml) {
        Ok(registered) => registered,
        Err(error) => return error.to_string(),
    };
    loop {
        let wait = u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX);
        match set.wait(wait) {
            Ok(event) => {
                let Some(XidError::Value(xid)) = event.event_data else { continue };
                // SAFETY: the handle is only compared.
                let handle = unsafe { event.device.handle() } as usize;
                // A GPU that has just been lost cannot tell its name any more.
                let known = handles.iter().find(|(other, _)| *other == handle).map(|(_, uuid)| uuid.clone());
                let gpu = known.or_else(|| event.device.uuid().ok().map(GpuUuid));
                if found.blocking_send(XidEvent { gpu, xid }).is_err() {
                    return "nobody wants to know".into();
                }
            }
            Err(NvmlError::Timeout) => {}
            Err(error) => return error.to_string(),
        }
        let current = shared.state();
        if current.generation != generation || current.nvml.is_none() || found.is_closed() {
            return "the library is loaded again".into();
        }
        // A GPU that did not answer before tells XIDs, too.
        if current.known.len() > known_before.max(handles.len()) {
            return "another GPU answers".into();
        }
    }
}

/// A set of events with every GPU that tells XIDs.
fn register<'nvml>(shared: &Shared, nvml: &'nvml Nvml) -> Result<(EventSet<'nvml>, Handles), NvmlError> {
    let mut handles = Handles::new();
    let mut set = nvml.create_event_set()?;
    let mut refused = Vec::new();
    'retry: loop {
        for index in (0..nvml.device_count()?).filter(|index| !refused.contains(index)) {
            let Ok(device) = nvml.device_by_index(index) else { continue };
            let supported = device.supported_event_types().unwrap_or(EventTypes::empty());
            if !supported.contains(EventTypes::CRITICAL_XID_ERROR) {
                debug!(index, "a GPU does not tell XIDs");
                continue;
            }
            set = match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
                Ok(set) => set,
                Err(error) => {
                    warn!(index, %error, "a GPU refuses to tell XIDs");
                    // The set went with the refusal: once more without this GPU.
                    refused.push(index);
                    handles.clear();
                    set = nvml.create_event_set()?;
                    continue 'retry;
                }
            };
            if let Ok(known) = shared.known(index, &device) {
                // SAFETY: the handle is only compared.
                handles.push((unsafe { device.handle() } as usize, known.uuid));
            }
        }
        return Ok((set, handles));
    }
}
