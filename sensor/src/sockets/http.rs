//! HTTP on a Unix socket, as little of it as is needed: one connection for a question, every answer bounded.

use std::path::Path;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, TE};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::AskError;

/// Bytes of an answer: labels and annotations of a pod are 256 KiB at most.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What precedes a message of gRPC: whether it is compressed, and its length.
const GRPC_PREFIX: usize = 5;
/// gRPC's status "not found".
const NOT_FOUND: i32 = 5;
/// Some runtimes have no other for that.
const UNKNOWN: i32 = 2;

async fn connect(path: &Path) -> Result<TokioIo<UnixStream>, AskError> {
    let stream = UnixStream::connect(path).await;
    Ok(TokioIo::new(stream.map_err(AskError::Unreachable)?))
}

/// A connection for gRPC.
pub(super) struct Grpc {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Ends with this.
    _connection: JoinSet<hyper::Result<()>>,
}

impl Grpc {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Fails where nobody listens there, or this process may not connect.
    pub async fn connect(path: &Path) -> Result<Self, AskError> {
        let stream = connect(path).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self {
            sender,
            _connection: tasks,
        })
    }

    /// Calls a method with one message each way; `None` where there is no such thing as it is asked for.
    ///
    /// # Errors
    /// Fails where the runtime refuses, or answers too much or what is no answer.
    pub async fn call<A: Message + Default>(
        &mut self,
        method: &str,
        question: &impl Message,
    ) -> Result<Option<A>, AskError> {
        let mut body = vec![0; GRPC_PREFIX];
        body[1..].copy_from_slice(&(question.encoded_len() as u32).to_be_bytes());
        question
            .encode(&mut body)
            .map_err(|error| AskError::Damaged(error.to_string()))?;
        let request = Request::post(format!("http://localhost/{method}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::from(body))
            .map_err(|error| AskError::Damaged(error.to_string()))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(AskError::Refused(answer.status().to_string()));
        }
        let headers = answer.headers().clone();
        let (bytes, trailers) = whole(answer).await?;
        // An answer without a message has its status among the headers.
        let trailers = trailers.unwrap_or(headers);
        match status(&trailers) {
            Some(0) => {}
            Some(NOT_FOUND) => return Ok(None),
            Some(UNKNOWN) if message(&trailers).contains("not found") => return Ok(None),
            Some(code) => {
                let message = message(&trailers);
                return Err(AskError::Refused(format!("gRPC status {code}: {message}")));
            }
            None => return Err(AskError::Damaged("it has no status of gRPC".into())),
        }
        let message = bytes.get(GRPC_PREFIX..).filter(|_| bytes[0] == 0);
        let message = message.ok_or_else(|| AskError::Damaged("no message of gRPC".into()))?;
        let decoded = A::decode(message);
        Ok(Some(
            decoded.map_err(|error| AskError::Damaged(error.to_string()))?,
        ))
    }
}

fn status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn message(headers: &HeaderMap) -> String {
    let value = headers.get("grpc-message");
    let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    value.unwrap_or_default()
}

/// Gets what stands at `target`; `None` where nothing does.
///
/// # Errors
/// Fails where nobody listens at `path`, or the answer is too large or no success.
pub(super) async fn get(path: &Path, target: &str) -> Result<Option<Bytes>, AskError> {
    let stream = connect(path).await?;
    let (mut sender, connection) = http1::handshake(stream).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::get(target)
        .header(HOST, "localhost")
        .body(Full::<Bytes>::default())
        .map_err(|error| AskError::Damaged(error.to_string()))?;
    let answer = sender.send_request(request).await?;
    match answer.status() {
        status if status.is_success() => Ok(Some(whole(answer).await?.0)),
        hyper::StatusCode::NOT_FOUND => Ok(None),
        status => Err(AskError::Refused(status.to_string())),
    }
}

/// All of an answer, and what comes behind it.
async fn whole(answer: Response<Incoming>) -> Result<(Bytes, Option<HeaderMap>), AskError> {
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => AskError::TooLarge,
        false => AskError::Damaged(error.to_string()),
    })?;
    let trailers = body.trailers().cloned();
    Ok((body.to_bytes(), trailers))
}
