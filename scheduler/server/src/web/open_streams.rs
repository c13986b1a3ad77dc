//! The streams that browsers have open, by their cookie: whoever logs out sees nothing more in any tab.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Of a cookie's token, which is kept nowhere.
type Key = [u8; 32];

/// All sessions that have a stream open.
#[derive(Clone, Default)]
pub struct OpenStreams(Arc<Mutex<HashMap<Key, Weak<CancellationToken>>>>);

/// One stream of a session; in the extensions of the request that begins it.
#[derive(Clone)]
pub struct SessionStream(Arc<CancellationToken>);

impl OpenStreams {
    /// A stream that came with this cookie begins. The session is known as long as one of its streams is open.
    pub fn begin(&self, cookie: &str) -> SessionStream {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Sha256::digest(cookie).into();
        if let Some(known) = open.get(&key).and_then(Weak::upgrade) {
            return SessionStream(known);
        }
        open.retain(|_, session| session.strong_count() > 0);
        let session = Arc::new(CancellationToken::new());
        open.insert(key, Arc::downgrade(&session));
        SessionStream(session)
    }

    /// Ends the streams of whoever has this cookie.
    pub fn log_out(&self, cookie: &str) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key: Key = Sha256::digest(cookie).into();
        if let Some(session) = open.remove(&key).and_then(|session| session.upgrade()) {
            session.cancel();
        }
    }
}

impl SessionStream {
    /// Waits until its session has logged out.
    pub fn logged_out(&self) -> impl Future<Output = ()> + Send + use<> {
        let (session, waiting): (_, WaitForCancellationFutureOwned) =
            (Arc::clone(&self.0), CancellationToken::clone(&self.0).cancelled_owned());
        async move {
            waiting.await;
            drop(session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_all_its_streams_and_leaves_others_open() {
        let open = OpenStreams::default();
        let (one, two, other) = (open.begin("ada"), open.begin("ada"), open.begin("bob"));
        open.log_out("ada");
        assert!(one.0.is_cancelled() && two.0.is_cancelled() && !other.0.is_cancelled());
        // Whoever logs in again with the same token begins anew.
        assert!(!open.begin("ada").0.is_cancelled());
        open.log_out("nobody");
    }

    #[test]
    fn what_has_no_stream_open_is_not_kept() {
        let open = OpenStreams::default();
        for at in 0..100 {
            drop(open.begin(&at.to_string()));
        }
        assert_eq!(open.0.lock().unwrap().len(), 1);
    }
}
