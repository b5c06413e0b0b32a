use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response: the inner service's body, which is streamed through, or the body of a
    /// rejection.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProjection]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Rejection { body: RejectionBody },
    }
}

/// The bytes of a rejection, if it has any. They are behind one pointer, so that a response, which is moved
/// often, has 120 bytes: larger ones are moved by calls of `memcpy`, which take a sixth of the time of a
/// denied request (bench: `steps::reject`).
#[derive(Clone, Debug, Default)]
pub(super) struct RejectionBody(Option<Arc<Bytes>>);

impl RejectionBody {
    pub(super) fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }

    fn take(&mut self) -> Option<Bytes> {
        self.0.take().map(Arc::unwrap_or_clone)
    }
}

impl From<Bytes> for RejectionBody {
    fn from(bytes: Bytes) -> Self {
        Self((!bytes.is_empty()).then(|| Arc::new(bytes)))
    }
}

impl From<RejectionBody> for Bytes {
    fn from(mut body: RejectionBody) -> Self {
        body.take().unwrap_or_default()
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn inner(body: B) -> Self {
        Self {
            kind: Kind::Inner { body },
        }
    }

    pub(super) fn rejection(body: RejectionBody) -> Self {
        Self {
            kind: Kind::Rejection { body },
        }
    }
}

/// Empty.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::rejection(RejectionBody::default())
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProjection::Inner { body } => body.poll_frame(cx),
            KindProjection::Rejection { body } => Poll::Ready(body.take().map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Rejection { body } => body.0.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Rejection { body } => SizeHint::with_exact(body.len()),
        }
    }
}
