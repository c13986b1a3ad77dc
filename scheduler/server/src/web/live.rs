//! The one stream of a page: `WatchCluster` as server-sent events, with one id for all that it carries, so that a browser
//! takes all of it up where it broke off.
//!
//! `GET /live?job=ID&job=ID`. An id is the cursor of the cluster, then that of each job, in the order of the query, with
//! semicolons between. The parameter `last` is for pages that make a new stream out of an old one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::MessageDescriptor;
use trainyard_proto::pb;

use super::json::{self, Wrong};
use super::json_body::invalid;
use super::{connect_error, descriptors, events, unary};

pub const PATH: &str = "/live";
const METHOD: &str = "/trainyard.v1.ClusterService/WatchCluster";
/// Changes of the cluster whose JSON is kept for the other pages that show them.
const KEPT: usize = 64;

/// The changes as JSON that all pages share.
#[derive(Clone, Default)]
pub struct Live(Arc<Mutex<Written>>);

/// Changes that were written as JSON: all pages with the same rights get the same ones.
#[derive(Default)]
struct Written {
    /// By the message, its JSON and its cursor.
    texts: HashMap<Bytes, (Bytes, String)>,
    /// The oldest first.
    order: VecDeque<Bytes>,
}

impl Live {
    /// Follows what a page shows.
    pub async fn follow(self, mut request: Request, next: Next) -> Response {
        let header = events::last_event(request.headers()).map(str::to_owned);
        let mut place = match Place::parse(request.uri().query(), header) {
            Ok(place) => place,
            Err(wrong) => return connect_error::answer(&invalid(&[wrong])),
        };
        let method = descriptors::method(METHOD).expect("the protocol has it");
        unary::turn_to(&mut request, METHOD);
        let message = place.request().encode_to_vec();
        let answer = method.output();
        let render = move |message: &Bytes| self.render(&answer, &mut place, message);
        events::stream(request, next, &message, render).await
    }

    /// An event, after which a page is at another place.
    fn render(&self, answer: &MessageDescriptor, place: &mut Place, message: &Bytes) -> Option<Bytes> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).texts.get(message).cloned();
        if let Some((text, cursor)) = known {
            place.cluster = cursor;
            return Some(events::event(Some(&place.id()), &text));
        }
        let text = Bytes::from(json::decode(answer.clone(), message)?);
        let event = pb::ClusterEvent::decode(message.clone()).ok()?;
        place.pass(&event);
        if !event.cursor.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(message, text.clone(), event.cursor);
        }
        Some(events::event(Some(&place.id()), &text))
    }
}

impl Written {
    fn keep(&mut self, message: &Bytes, text: Bytes, cursor: String) {
        // A part of a buffer would keep all of it.
        let message = Bytes::copy_from_slice(message);
        if self.texts.insert(message.clone(), (text, cursor)).is_none() {
            self.order.push_back(message);
        }
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.texts.remove(&oldest);
        }
    }
}

/// Up to where a page has been told.
#[derive(Debug, Default, PartialEq)]
struct Place {
    cluster: String,
    /// Ids as the page wrote them, which may be starts of ids, with the cursor of the last event.
    jobs: Vec<(String, u64)>,
}

impl Place {
    fn parse(query: Option<&str>, header: Option<String>) -> Result<Self, Wrong> {
        let (mut place, mut last) = (Self::default(), None);
        for (name, value) in events::pairs(query) {
            match name.as_str() {
                "job" => place.jobs.push((value, 0)),
                "last" => last = Some(value).filter(|last| !last.is_empty()),
                _ => {
                    let text =
                        "is no parameter of this stream; it has `job`, as often as you like, and `last`";
                    return Err(Wrong { field: name, text: text.to_owned() });
                }
            }
        }
        // A browser's own is newer.
        let Some(last) = header.or(last) else { return Ok(place) };
        let mut parts = last.split(';');
        parts.next().unwrap_or_default().clone_into(&mut place.cluster);
        for ((_, cursor), part) in place.jobs.iter_mut().zip(parts) {
            let wrong =
                || Wrong { field: "last".to_owned(), text: "is no id of an event of this stream".to_owned() };
            *cursor = part.parse().map_err(|_| wrong())?;
        }
        Ok(place)
    }

    fn request(&self) -> pb::WatchClusterRequest {
        let watch = |(job_id, cursor): &(String, u64)| pb::WatchJobRequest {
            job_id: job_id.clone(),
            cursor: *cursor,
            history_only: false,
        };
        pb::WatchClusterRequest { cursor: self.cluster.clone(), jobs: self.jobs.iter().map(watch).collect() }
    }

    fn pass(&mut self, event: &pb::ClusterEvent) {
        if !event.cursor.is_empty() {
            event.cursor.clone_into(&mut self.cluster);
        }
        let Some(last) = event.job_events.last() else { return };
        for (job, cursor) in &mut self.jobs {
            if event.job_id.starts_with(job.as_str()) {
                *cursor = last.cursor;
            }
        }
    }

    fn id(&self) -> String {
        let mut id = self.cluster.clone();
        for (_, cursor) in &self.jobs {
            id.push_str(&format!(";{cursor}"));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_where_all_of_a_stream_goes_on() {
        let mut place = Place::parse(Some("job=aa&job=bb"), None).unwrap();
        let told = |job_id: &str, cursor: u64| pb::ClusterEvent {
            job_id: job_id.into(),
            job_events: vec![pb::JobEvent { cursor, ..Default::default() }],
            ..Default::default()
        };
        place.pass(&told("bb-2", 7));
        assert_eq!(place.id(), ";0;7");
        place.pass(&pb::ClusterEvent { cursor: "x.3".into(), ..Default::default() });
        place.pass(&told("aa-1", 2));
        assert_eq!(place.id(), "x.3;2;7");
        assert_eq!(Place::parse(Some("job=aa&job=bb"), Some(place.id())), Ok(place));
        // A job more than before begins at its beginning.
        let more = Place::parse(Some("job=aa&job=bb&job=cc&last=x.3;2;7"), None).unwrap();
        assert_eq!(more.request().jobs.iter().map(|job| job.cursor).collect::<Vec<_>>(), [2, 7, 0]);
        assert_eq!(Place::parse(Some("jobs=aa"), None).unwrap_err().field, "jobs");
        assert_eq!(Place::parse(Some("job=aa&last=x;many"), None).unwrap_err().field, "last");
    }

    #[test]
    fn json_is_written_once_for_all_pages_and_kept_for_a_while() {
        let (live, answer) = (Live::default(), descriptors::method(METHOD).unwrap().output());
        let message = |at: usize| {
            let event = pb::ClusterEvent { cursor: format!("x.{at}"), ..Default::default() };
            Bytes::from(event.encode_to_vec())
        };
        let mut place = Place::default();
        for at in 0..2 * KEPT {
            let event = live.render(&answer, &mut place, &message(at)).unwrap();
            let again = live.render(&answer, &mut Place::default(), &message(at)).unwrap();
            assert_eq!(event, again);
        }
        let written = live.0.lock().unwrap();
        assert_eq!((written.texts.len(), written.order.len()), (KEPT, KEPT));
    }
}
