//! Ports for processes that cannot choose one and tell which.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// A port of this machine that the kernel will give to nobody else for the next minute.
///
/// A connection that was closed leaves its port in TIME_WAIT. The kernel then does not hand the
/// port out, but lets a process that asks for it by number (with `SO_REUSEADDR`, as all servers
/// do) have it.
pub(crate) fn reserved_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    let _client = TcpStream::connect(address).expect("our own listener accepts");
    // Dropped before the client, because TIME_WAIT falls to the side that closes first.
    drop(listener.accept().expect("our own connection arrives"));
    address.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_can_be_listened_on() {
        let port = reserved_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("still free");
        assert_eq!(listener.local_addr().expect("bound").port(), port);
    }
}
