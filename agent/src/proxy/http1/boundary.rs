//! Where the messages of a client's connection begin and end, as hyper sees it.
//!
//! # Design
//! - How long a body is, hyper says: when it has parsed a head it calls the service, and what the service is given becomes
//!   [`Announced`]. So of heads only the end is looked for here, which is the first empty line behind the request line, and
//!   of chunked bodies the grammar that hyper's decoder has, state by state.
//! - Nothing behind a boundary is given to hyper before it has asked for it. That hyper wants more of a message that has
//!   ended here, or an announcement is missing, is a difference: from then on, and behind all that is not understood, the
//!   rest of the connection is [`Part::Foreign`] and passes as it is.
//! - A wrong boundary could at worst escape bytes of a body; what is a message, and whose, hyper alone decides.
//!
//! Source: `parse_headers`, `Decoder` of hyper 1.12, `Request::parse` of httparse 1.10; the tests compare with them.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{Method, Request, header};
use http_body::Body;

/// What hyper found in a head, from the service to the stream below.
///
/// Shape: the length of the body in bytes, or one of the values above all lengths. A connection has one.
#[derive(Debug)]
pub(in crate::proxy) struct Announced(AtomicU64);

const NOTHING: u64 = u64::MAX;
const CHUNKED: u64 = u64::MAX - 1;
const FOREIGN: u64 = u64::MAX - 2;

impl Default for Announced {
    fn default() -> Self {
        Self(AtomicU64::new(NOTHING))
    }
}

impl Announced {
    /// Says what follows the head of this request, which hyper has just parsed.
    pub(in crate::proxy) fn announce<B: Body>(&self, request: &Request<B>) {
        let may_switch = *request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE);
        let follows = match request.body().size_hint().exact() {
            _ if may_switch => FOREIGN,
            Some(length) => length.min(FOREIGN),
            None => CHUNKED,
        };
        self.0.store(follows, Relaxed);
    }

    fn take(&self) -> u64 {
        self.0.swap(NOTHING, Relaxed)
    }
}

/// Which part of a message the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Empty lines before a request line, or its first byte.
    Start,
    /// The method, to the space behind it.
    Method,
    /// The target, before its first byte.
    Target,
    /// The path of a target that begins with `/`.
    Path,
    /// The query of one.
    Query,
    /// What else the line has, be it of the head's request line or of its fields.
    Line,
    /// The first byte of a line behind the request line.
    LineStart,
    /// The line feed of the empty line.
    HeadLf,
    /// The head has ended; what follows is not announced yet.
    HeadEnd,
    /// So many bytes of a body.
    Body(u64),
    /// A chunked body.
    Chunk(Chunk),
    /// Unknown, to the end of the connection.
    Foreign,
}

/// A place in a chunked body. Source: RFC 9112 part 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The first digit of a size.
    First,
    /// Another digit, or what is behind the size so far.
    Size(u64),
    /// White space behind a size.
    Space(u64),
    /// An extension of a chunk of that size.
    Extension(u64),
    /// The line feed behind a size.
    SizeLf(u64),
    /// So many bytes of data.
    Data(u64),
    /// The carriage return behind the data.
    DataCr,
    /// Its line feed.
    DataLf,
    /// The first byte of a line behind the last chunk.
    TrailerStart,
    /// A trailer.
    Trailer,
    /// The line feed behind a trailer.
    TrailerLf,
    /// The line feed behind all.
    EndLf,
}

impl Part {
    /// Whether the boundary of a message is here: what follows waits until it is asked for.
    #[must_use]
    pub(super) fn is_boundary(self) -> bool {
        matches!(self, Self::HeadEnd | Self::Start)
    }

    /// Whether this byte of a target is escaped here: one that the `http` crate takes for part of no path, or no query.
    #[must_use]
    pub(super) fn escapes(self, byte: u8) -> bool {
        match self {
            Self::Path => matches!(byte, b'<' | b'>' | b'`'),
            Self::Query => matches!(byte, b'<' | b'>' | b'"'),
            _ => false,
        }
    }

    /// Whether the byte counts towards a head.
    #[must_use]
    pub(super) fn is_head(self) -> bool {
        !matches!(self, Self::HeadEnd | Self::Body(_) | Self::Chunk(_) | Self::Foreign)
    }

    /// hyper asks for bytes: behind a head what was announced begins.
    #[must_use]
    pub(super) fn asked(self, announced: &Announced) -> Self {
        if self != Self::HeadEnd {
            return self;
        }
        match announced.take() {
            NOTHING | FOREIGN => Self::Foreign,
            CHUNKED => Self::Chunk(Chunk::First),
            0 => Self::Start,
            length => Self::Body(length),
        }
    }

    /// Goes on over bytes up to a boundary or a byte that is escaped, and says how many these are.
    ///
    /// Cost: linear in the bytes, data of bodies free.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.escapes(byte) {
                break;
            }
            let before = *self;
            at += self.step(byte, &bytes[at..]);
            if self.is_boundary() && before != Self::Start {
                break;
            }
        }
        at
    }

    /// Takes the first of these bytes, or as many as are alike.
    fn step(&mut self, byte: u8, rest: &[u8]) -> usize {
        let mut taken = 1;
        *self = match (*self, byte) {
            (Self::Start, b'\r' | b'\n') => Self::Start,
            (Self::Start, _) => Self::Method,
            (Self::Method, b' ') => Self::Target,
            // hyper answers 400 to a line without target or version, and to what else is none here.
            (Self::Method | Self::Target | Self::Path | Self::Query, b'\r' | b'\n') => Self::Foreign,
            (Self::Target, b'/') => Self::Path,
            (Self::Target, _) | (Self::Path | Self::Query, b' ' | b'#') => Self::Line,
            (Self::Path, b'?') => Self::Query,
            (Self::Line, _) => match memchr::memchr(b'\n', rest) {
                Some(end) => {
                    taken = end + 1;
                    Self::LineStart
                }
                None => {
                    taken = rest.len();
                    Self::Line
                }
            },
            (Self::LineStart, b'\r') => Self::HeadLf,
            (Self::LineStart | Self::HeadLf, b'\n') => Self::HeadEnd,
            (Self::LineStart, _) => Self::Line,
            (Self::Body(left), _) => {
                taken = fitting(left, rest);
                match left - taken as u64 {
                    0 => Self::Start,
                    left => Self::Body(left),
                }
            }
            (Self::Chunk(Chunk::Data(left)), _) => {
                taken = fitting(left, rest);
                match left - taken as u64 {
                    0 => Self::Chunk(Chunk::DataCr),
                    left => Self::Chunk(Chunk::Data(left)),
                }
            }
            (Self::Chunk(Chunk::EndLf), b'\n') => Self::Start,
            (Self::Chunk(chunk), byte) => chunk.next(byte).map_or(Self::Foreign, Self::Chunk),
            (Self::Foreign, _) => {
                taken = rest.len();
                Self::Foreign
            }
            (Self::HeadEnd, _) => {
                taken = 0;
                Self::HeadEnd
            }
            (same @ (Self::Method | Self::Path | Self::Query), _) => same,
            (Self::HeadLf, _) => Self::Foreign,
        };
        taken
    }
}

/// How many of these bytes belong to what has so many left.
fn fitting(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

impl Chunk {
    /// The place behind this byte; `None` where hyper's decoder sees an error.
    fn next(self, byte: u8) -> Option<Self> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(match (self, byte) {
            (Self::First, _) => Self::Size(digit?),
            (Self::Size(size), _) if digit.is_some() => Self::Size(size.checked_mul(16)?.checked_add(digit?)?),
            (Self::Size(size) | Self::Space(size), b'\t' | b' ') => Self::Space(size),
            (Self::Size(size) | Self::Space(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Space(size) | Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Extension(_), b'\n') => return None,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLf(0) | Self::TrailerLf, b'\n') => Self::TrailerStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::First,
            (Self::TrailerStart, b'\r') => Self::EndLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            _ => return None,
        })
    }
}
