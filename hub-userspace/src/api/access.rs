//! Access control: the kernel reports the peer's credentials (`SO_PEERCRED`, unix(7)).

use std::time::Duration;

use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use tokio::time::timeout;

use super::failure;

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
        return failure(StatusCode::FORBIDDEN, "only root can make changes: run as root");
    }
    let (parts, body) = request.into_parts();
    match timeout(BODY_WITHIN, to_bytes(body, LARGEST_BODY)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => failure(StatusCode::PAYLOAD_TOO_LARGE, "the request is truncated, or longer than 8 KiB"),
        Err(_) => failure(StatusCode::REQUEST_TIMEOUT, "the request did not arrive within 5 seconds"),
    }
}
