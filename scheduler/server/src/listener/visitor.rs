//! One connection's requests: each is told who makes it, and it is known whether there was one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::http::Request;
use tower_service::Service;

use crate::tls::Peer;

/// Answers the requests of a connection.
#[derive(Clone)]
pub struct Visitor {
    routes: Router,
    peer: Peer,
    asked: Asked,
}

/// Whether a connection has made a request.
#[derive(Clone, Default)]
pub struct Asked(Arc<AtomicBool>);

impl Asked {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Visitor {
    pub fn new(routes: Router, peer: Peer) -> (Self, Asked) {
        let asked = Asked::default();
        (Self { routes, peer, asked: asked.clone() }, asked)
    }
}

impl<B> Service<Request<B>> for Visitor
where
    Router: Service<Request<B>>,
{
    type Response = <Router as Service<Request<B>>>::Response;
    type Error = <Router as Service<Request<B>>>::Error;
    type Future = <Router as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.routes.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.asked.0.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(self.peer.clone());
        self.routes.call(request)
    }
}
