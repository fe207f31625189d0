//! From an accepted socket to start-up parameters: answers to SSLRequest and GSSENCRequest, CancelRequest.

use futures::FutureExt as _;
use millstream::error::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::cancel::Registry;
use super::guard::{self, First, ReadError, protocol_violation};
use super::out::Out;

/// What a client says about itself.
#[derive(Debug, Default)]
pub struct Parameters {
    /// Minor protocol version asked for.
    pub minor: u16,
    /// Names and values.
    pub values: Vec<(String, String)>,
}

impl Parameters {
    /// A value by name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// `None`: nothing more to do on this connection.
pub async fn negotiate(socket: &mut TcpStream, registry: &Registry) -> Option<Parameters> {
    let (mut ssl_asked, mut gss_asked) = (false, false);
    loop {
        match guard::read_first(socket).await {
            Ok(First::Startup { minor, parameters }) => return Some(Parameters { minor, values: parameters }),
            Ok(First::Cancel(pid, key)) => {
                registry.cancel(pid, key);
                return None;
            }
            Ok(request @ (First::Ssl | First::Gss)) => {
                let asked = if request == First::Ssl { &mut ssl_asked } else { &mut gss_asked };
                let again = std::mem::replace(asked, true);
                // Whatever is here already was sent before our answer: an honest client waits for it.
                let mut early = [0u8; 1];
                if again || matches!(socket.peek(&mut early).now_or_never(), Some(Ok(n)) if n > 0) {
                    let what = if request == First::Ssl { "SSL" } else { "GSSAPI encryption" };
                    refuse(socket, &protocol_violation(format!("received unencrypted data after {what} request")))
                        .await;
                    return None;
                }
                socket.write_all(b"N").await.ok()?;
            }
            Err(ReadError::Closed) => return None,
            Err(ReadError::Violation(e)) => {
                refuse(socket, &e).await;
                return None;
            }
        }
    }
}

/// Sends a FATAL error. The client may be gone; then there is nobody to tell.
pub async fn refuse(socket: &mut TcpStream, e: &Error) {
    let mut out = Out::new(socket);
    if out.error(e, true).is_ok() {
        let _ = out.flush().await;
    }
}
