//! Access control: the kernel reports the peer's credentials (`SO_PEERCRED`, unix(7)).

use std::time::Duration;

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::Request,
    http::Method,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::time::timeout;

use super::failure::Failure;
use crate::api_types::problem::ProblemType;

/// Maximum size of a body in bytes: 20 times the longest useful one.
const LARGEST_BODY: usize = 8 * 1024;
/// Time limit for receiving a body.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// The peer of a connection.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub is_root: bool,
    /// Its user ID.
    pub uid: u32,
}

/// Admits a permitted request once its body is complete.
pub(super) async fn guard(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_reading && !peer.is_root {
        return Failure::new(ProblemType::Forbidden, "only root can make changes: run as root").into_response();
    }
    let (parts, body) = request.into_parts();
    let failure = match timeout(BODY_WITHIN, to_bytes(body, LARGEST_BODY)).await {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => Failure::new(ProblemType::BodyTooLarge, "the request is truncated, or longer than 8 KiB"),
        Err(_) => Failure::new(ProblemType::RequestTimeout, "the request did not arrive within 5 seconds"),
    };
    failure.into_response()
}
