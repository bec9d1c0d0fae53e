//! The API's thread: all clients, the metrics of every minute, and the end.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::fd::AsRawFd,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use vmm_sys_util::{
    epoll::{ControlOperation, Epoll, EpollEvent, EventSet},
    eventfd::EventFd,
};

use super::{connection::Connection, controller::Controller, socket::Socket};

/// How often metrics are written.
const METRICS_PERIOD: Duration = Duration::from_mins(1);
/// Clients at a time. One more, and whoever has been silent for longest is put out.
const MOST_CLIENTS: usize = 128;
/// What epoll calls the event that ends the thread.
const STOP: u64 = 0;
/// What it calls the listener; clients have numbers above.
const LISTENER: u64 = 1;

/// The longest body that is taken unless asked otherwise, in bytes.
pub const LONGEST_BODY: usize = 51_200;

/// The API's thread. Dropping it ends it: its last metrics are written, and its socket is removed.
#[derive(Debug)]
pub struct ApiThread {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl ApiThread {
    /// Serves `controller` on `socket`, with bodies of at most `longest_body` bytes; without a socket it only writes
    /// metrics.
    ///
    /// # Errors
    /// What epoll, eventfd or the start of the thread said.
    pub fn start(socket: Option<Socket>, controller: Controller, longest_body: usize) -> io::Result<Self> {
        let stop = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let epoll = Epoll::new()?;
        watch(&epoll, stop.as_raw_fd(), STOP, EventSet::IN)?;
        if let Some(socket) = &socket {
            watch(&epoll, socket.listener().as_raw_fd(), LISTENER, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        }
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("api".to_owned()).spawn(move || {
            let _kept_open = stopped;
            let controller = Rc::new(RefCell::new(controller));
            let clients = HashMap::new();
            Server { epoll, socket, controller, longest_body, clients, next: LISTENER + 1, turn: 0 }.run();
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for ApiThread {
    fn drop(&mut self) {
        // It fails only when the event is raised already.
        let _already = self.stop.write(1);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the API's thread panicked");
        }
    }
}

struct Server {
    epoll: Epoll,
    socket: Option<Socket>,
    controller: Rc<RefCell<Controller>>,
    longest_body: usize,
    clients: HashMap<u64, Client>,
    /// The number of the next client.
    next: u64,
    /// How many times a client was heard.
    turn: u64,
}

struct Client {
    connection: Connection,
    /// The turn at which it was last heard.
    heard: u64,
}

impl Server {
    fn run(&mut self) {
        let mut next_metrics = Instant::now() + METRICS_PERIOD;
        let mut events = [EpollEvent::default(); 32];
        loop {
            let patience = next_metrics.saturating_duration_since(Instant::now());
            // One more, so that it is not asked in vain in the last fraction of a millisecond.
            let patience = i32::try_from(patience.as_millis() + 1).unwrap_or(i32::MAX);
            let count = match self.epoll.wait(patience, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("the API ends: epoll failed: {error}");
                    break;
                }
            };
            if events[..count].iter().any(|event| event.data() == STOP) {
                break;
            }
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    client => self.advance(client),
                }
            }
            if Instant::now() >= next_metrics {
                next_metrics += METRICS_PERIOD;
                self.write_metrics();
            }
        }
        self.write_metrics();
    }

    /// Takes whoever has come.
    fn accept(&mut self) {
        while let Some(accepted) = self.socket.as_ref().map(|socket| socket.listener().accept()) {
            match accepted {
                Ok((stream, _)) => self.admit(stream).unwrap_or_else(|error| {
                    log::warn!("a client of the API was turned away: {error}");
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Out of descriptors, say: they wait until the next one comes.
                Err(error) => {
                    log::warn!("a client of the API cannot be let in: {error}");
                    return;
                }
            }
        }
    }

    fn admit(&mut self, stream: std::os::unix::net::UnixStream) -> io::Result<()> {
        if self.clients.len() >= MOST_CLIENTS {
            let silent = self.clients.iter().min_by_key(|(_, client)| client.heard);
            if let Some(silent) = silent.map(|(&number, _)| number) {
                self.clients.remove(&silent);
            }
        }
        stream.set_nonblocking(true)?;
        let connection = Connection::new(stream, Rc::clone(&self.controller), self.longest_body);
        let number = self.next;
        self.next += 1;
        let edges = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        watch(&self.epoll, connection.fd(), number, edges)?;
        self.clients.insert(number, Client { connection, heard: self.turn });
        self.advance(number);
        Ok(())
    }

    /// Goes on with a client; one that was put out may have had an event in the same round.
    fn advance(&mut self, number: u64) {
        self.turn += 1;
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        client.heard = self.turn;
        if client.connection.advance() {
            // Its stream is closed with it, and is not watched any more then.
            self.clients.remove(&number);
        }
    }

    fn write_metrics(&self) {
        let mut controller = self.controller.borrow_mut();
        if controller.writes_metrics() {
            controller.flush_metrics().unwrap_or_else(|fault| log::warn!("{fault}"));
        }
    }
}

fn watch(epoll: &Epoll, fd: std::os::fd::RawFd, number: u64, events: EventSet) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, number))
}
