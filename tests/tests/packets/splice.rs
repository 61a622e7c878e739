//! Why streams are copied: two sockets that the kernel splices (`ebpf/src/splice.rs`) have no bound between them.
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, SockMap},
    programs::SkSkb,
};
use socket2::SockRef;

/// The buffers of all four sockets. Units: bytes.
const BUFFER: usize = 64 << 10;
/// Far more than they hold together, whatever the kernel adds for its own. Units: bytes.
const BEYOND: usize = 64 << 20;
/// How long nothing may go until the sender counts as held back.
const STALLED: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(20);

/// Two ends of a connection on loopback, with small buffers.
fn pair() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    SockRef::from(&listener).set_recv_buffer_size(BUFFER)?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for socket in [&near, &far] {
        SockRef::from(socket).set_recv_buffer_size(BUFFER)?;
        SockRef::from(socket).set_send_buffer_size(BUFFER)?;
        socket.set_read_timeout(Some(LIMIT))?;
    }
    Ok((near, far))
}

/// Hands on what comes in at `from` to whoever `to` is connected with.
/// It lasts as long as what is returned.
fn splice(from: &TcpStream, to: &TcpStream) -> anyhow::Result<(Ebpf, [SockMap<MapData>; 2])> {
    let object = xtask::ebpf::splice(&xtask::root());
    let mut bpf = EbpfLoader::new().load_file(&object).with_context(|| object.display().to_string())?;
    let mut map = |name| -> anyhow::Result<SockMap<MapData>> { Ok(bpf.take_map(name).context(name)?.try_into()?) };
    let (mut source, mut target) = (map("FROM")?, map("TO")?);
    let program: &mut SkSkb = bpf.program_mut("sluice_splice").context("no program")?.try_into()?;
    program.load().context("load the program")?;
    program.attach(source.fd()).context("attach the program")?;
    target.set(0, to, 0)?;
    source.set(0, from, 0)?;
    Ok((bpf, [source, target]))
}

/// Sends until that takes too long, or `most` have gone; how many went.
fn send(to: &mut TcpStream, most: usize) -> anyhow::Result<usize> {
    to.set_nonblocking(true)?;
    let (chunk, mut sent, mut last) = (vec![7; BUFFER], 0, Instant::now());
    while sent < most && last.elapsed() < STALLED {
        match to.write(&chunk) {
            Ok(n) => (sent, last) = (sent + n, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error.into()),
        }
    }
    to.set_nonblocking(false)?;
    Ok(sent)
}

/// Client and proxy, proxy and endpoint: what the client sends arrives, in order and to the end, and its end is seen.
#[test]
fn a_splice_in_the_kernel_hands_everything_on_and_holds_no_sender_back() {
    let ((mut client, mut from), (to, mut endpoint)) = (pair().expect("sockets"), pair().expect("sockets"));
    let bound = {
        // Without a splice the buffers are the bound, which is what a copy between them keeps.
        let (mut sender, _receiver) = pair().expect("sockets");
        send(&mut sender, BEYOND).expect("room")
    };
    assert!(bound < BEYOND / 16, "{bound} bytes without a reader");
    let _splice = splice(&from, &to).expect("a splice");
    let sent = send(&mut client, BEYOND).expect("room");
    assert!(
        sent >= BEYOND,
        "after {sent} bytes the sender was held back, where {bound} fit into the buffers of a connection: streams can be \
         spliced on this kernel, see agent/src/proxy/stream/mod.rs"
    );
    client.shutdown(Shutdown::Write).expect("an open socket");
    let (mut got, mut chunk) = (0, vec![0; 1 << 20]);
    while got < sent {
        let n = endpoint.read(&mut chunk).expect("the bytes arrive");
        assert!(n > 0 && chunk[..n].iter().all(|byte| *byte == 7), "after {got} bytes of {sent}");
        got += n;
    }
    assert_eq!((got, from.read(&mut chunk).expect("its end")), (sent, 0), "the client's end is told who splices");
}
