use std::any::Any;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;

/// The error of a body, as in `tower::BoxError`.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// The body of a rejection: bytes, or a body of any type.
///
/// ```
/// use bytes::Bytes;
/// use tollgate::RejectionBody;
///
/// let body = RejectionBody::from("slow down");
/// assert_eq!(body.as_bytes(), Some(&b"slow down"[..]));
/// ```
///
/// It is behind one pointer, so that a response, which is moved often, has 120 bytes: larger ones are moved
/// by calls of `memcpy`, which take a sixth of the time of a denied request (bench: `steps::reject`).
#[derive(Default)]
pub struct RejectionBody(Option<Arc<Content>>);

enum Content {
    Bytes(Bytes),
    /// In a mutex, since most bodies are not `Sync`, and the body of a response should be. The mutex is
    /// never contended.
    Streamed(Mutex<StreamedBody>),
}

type StreamedBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

impl RejectionBody {
    /// Wraps a body, which is streamed.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        // The body of `Rejection::response` needs no second box.
        if let Some(body) = (&mut body as &mut dyn Any).downcast_mut::<Option<Self>>() {
            return body.take().unwrap_or_default();
        }
        Self(body.map(|inner| {
            let body: StreamedBody = Box::pin(WithBoxError { inner });
            Arc::new(Content::Streamed(Mutex::new(body)))
        }))
    }

    /// Returns the bytes, or `None` if the body is streamed.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self.0.as_deref() {
            None => Some(&[]),
            Some(Content::Bytes(bytes)) => Some(bytes),
            Some(Content::Streamed(_)) => None,
        }
    }

    /// Returns a body that shares the bytes of a template.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }
}

impl From<Bytes> for RejectionBody {
    fn from(bytes: Bytes) -> Self {
        Self((!bytes.is_empty()).then(|| Arc::new(Content::Bytes(bytes))))
    }
}

impl From<String> for RejectionBody {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for RejectionBody {
    fn from(text: &'static str) -> Self {
        Bytes::from(text).into()
    }
}

impl Body for RejectionBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let bytes = match self.0.as_deref() {
            None => return Poll::Ready(None),
            Some(Content::Bytes(bytes)) => bytes.clone(),
            Some(Content::Streamed(body)) => return body.lock().as_mut().poll_frame(cx),
        };
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self.0.as_deref() {
            None => true,
            Some(Content::Bytes(_)) => false,
            Some(Content::Streamed(body)) => body.lock().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.as_deref() {
            None => SizeHint::with_exact(0),
            Some(Content::Bytes(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Some(Content::Streamed(body)) => body.lock().size_hint(),
        }
    }
}

impl fmt::Debug for RejectionBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_tuple("RejectionBody");
        match self.as_bytes() {
            Some(bytes) => debug.field(&Bytes::copy_from_slice(bytes)).finish(),
            None => debug.finish_non_exhaustive(),
        }
    }
}

pin_project! {
    /// A body whose errors are boxed.
    struct WithBoxError<B> {
        #[pin]
        inner: B,
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for WithBoxError<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().inner.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
