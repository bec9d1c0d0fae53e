//! One client: HTTP by hyper on a stream that never waits.
//!
//! A connection is a future. What it waits for is its stream, which the server's epoll watches for edges; whatever the
//! future has to tell itself comes by its waker. So it is polled when its stream is ready, and again for as long as it
//! wakes itself.

use std::{
    cell::RefCell,
    convert::Infallible,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};

use super::{
    controller::Controller,
    fault::Fault,
    routes::{self, Answer},
};

/// What a connection may keep of a head that has not all come; a body may be longer.
const BUFFER_BYTES: usize = 16 << 10;
/// What is read at a time.
const CHUNK_BYTES: usize = 4 << 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// One client.
pub(super) struct Connection {
    future: Pin<Box<dyn Future<Output = ()>>>,
    again: Arc<Again>,
    waker: Waker,
    fd: RawFd,
}

impl Connection {
    /// Serves `stream`, which must not block, with bodies of at most `longest_body` bytes.
    pub(super) fn new(stream: UnixStream, controller: Rc<RefCell<Controller>>, longest_body: usize) -> Self {
        let fd = stream.as_raw_fd();
        let service = service_fn(move |request| {
            let controller = Rc::clone(&controller);
            async move { Ok::<_, Infallible>(serve(&controller, request, longest_body).await) }
        });
        let serving = http1::Builder::new()
            // Timeouts need a timer; whoever keeps silent is put out when others need the room.
            .header_read_timeout(None)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(Stream(stream), service);
        let future = Box::pin(async move {
            if let Err(error) = serving.await {
                log::debug!("a client of the API was lost: {error}");
            }
        });
        let again = Arc::new(Again::default());
        Self { future, waker: Waker::from(Arc::clone(&again)), again, fd }
    }

    /// Its stream; closed when this is dropped.
    pub(super) const fn fd(&self) -> RawFd {
        self.fd
    }

    /// Goes as far as the stream allows. Returns whether the client is gone.
    pub(super) fn advance(&mut self) -> bool {
        let mut context = Context::from_waker(&self.waker);
        loop {
            if self.future.as_mut().poll(&mut context).is_ready() {
                return true;
            }
            // Pairs with the store in `wake`.
            if !self.again.0.swap(false, Ordering::Acquire) {
                return false;
            }
        }
    }
}

/// Whether a future has woken itself.
#[derive(Debug, Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        // Pairs with the swap in `advance`.
        self.0.store(true, Ordering::Release);
    }
}

/// A stream that says it is not ready, and is watched for the edge that follows.
struct Stream(UnixStream);

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK_BYTES];
        let room = buffer.remaining().min(CHUNK_BYTES);
        let read = ready(|| (&self.0).read(&mut chunk[..room]));
        read.map_ok(|read| buffer.put_slice(&chunk[..read]))
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready(|| (&self.0).write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(std::net::Shutdown::Write))
    }
}

/// What a call said, unless it would have waited.
fn ready<T>(mut call: impl FnMut() -> io::Result<T>) -> Poll<io::Result<T>> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

/// Answers one request. The controller is borrowed only while the whole request is there.
async fn serve(
    controller: &RefCell<Controller>,
    request: Request<Incoming>,
    longest_body: usize,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = read(body, longest_body).await;
    let mut controller = controller.borrow_mut();
    let path = head.uri.path();
    let answer = body.and_then(|body| routes::serve(&mut controller, &head.method, path, &body));
    match &answer {
        Ok(_) => log::info!("API: {} {path}: done", head.method),
        Err(fault) => log::warn!("API: {} {path}: {fault}", head.method),
    }
    let response = answer.map_or_else(|fault| refuse(&fault), respond);
    controller.count(&head.method, response.status());
    response
}

async fn read(body: Incoming, longest: usize) -> Result<Bytes, Fault> {
    let announced = body.size_hint().lower();
    if announced > longest as u64 {
        return Err(Fault::TooLong { got: announced, most: longest });
    }
    let read = Limited::new(body, longest).collect().await;
    read.map(http_body_util::Collected::to_bytes).map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => Fault::Body(*error),
        Err(error) => {
            debug_assert!(
                error.is::<LengthLimitError>(),
                "a limited body fails by its limit or by its source"
            );
            Fault::TooLong { got: longest as u64 + 1, most: longest }
        }
    })
}

fn respond(answer: Answer) -> Response<Full<Bytes>> {
    match answer {
        Answer::Done => response(StatusCode::NO_CONTENT, None, Bytes::new()),
        Answer::Json(json) => response(StatusCode::OK, Some(JSON), json.into()),
        Answer::OpenMetrics(text) => response(StatusCode::OK, Some(OPEN_METRICS), text.into()),
    }
}

fn refuse(fault: &Fault) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "fault_message": fault.to_string() }).to_string();
    response(fault.status(), Some(JSON), body.into())
}

fn response(status: StatusCode, kind: Option<HeaderValue>, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
