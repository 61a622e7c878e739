//! The trailers of a body.
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use super::BodyFault;
use crate::proxy::{headers, http1::Trailers};

/// What becomes of a body's trailers.
#[derive(Debug, Default)]
pub(super) struct Trailing {
    /// They pass, whichever the version of HTTP.
    pub(super) pass: bool,
    /// Where they are written, for HTTP/1.1; without it hyper gets them.
    pub(super) to: Option<Trailers>,
    /// They were given, and the body ends when what was before is flushed.
    pub(super) given: bool,
}

impl Trailing {
    /// Pending while the end of the body must wait.
    pub(super) fn poll_due(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.to {
            Some(to) if self.given => to.poll_due(cx),
            _ => Poll::Ready(()),
        }
    }

    /// What hyper gets of a frame.
    pub(super) fn poll_frame(
        &mut self,
        frame: Option<Result<Frame<Bytes>, BodyFault>>,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = match frame {
            Some(Ok(frame)) => without_forbidden_trailers(frame),
            Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
            None => return Poll::Ready(None),
        };
        // Of HTTP/1.1 they come without.
        if frame.trailers_ref().is_some_and(headers::has_padding) {
            return Poll::Ready(Some(Err(BodyFault::Malformed)));
        }
        match (&self.to, frame.trailers_ref()) {
            (Some(_), Some(none)) if none.is_empty() => Poll::Ready(None),
            (Some(to), Some(trailers)) => {
                to.give(trailers, cx);
                self.given = true;
                Poll::Pending
            }
            _ => Poll::Ready(Some(Ok(frame))),
        }
    }
}

/// Pseudo headers in trailers of HTTP/2 do not come here: `h2` parses them into a field of the frame and drops that where it
/// hands trailers on (0.4.20: `Recv::recv_trailers`, `Headers::into_fields`), without an error, an event or a setting.
/// Envoy and HAProxy reset the stream (RFC 9113 part 8.1.1); to see what `h2` drops, one would have to decode HPACK below
/// it a second time, from the first frame of each connection on. So this is a limit, and a safe one: whoever sends them
/// gets an answer instead of a reset, and nothing of them crosses.
fn without_forbidden_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
