//! Names of addresses, as the host's resolver has them. Called by both daemons
//! at start, by nobody else: it may wait for a name server.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;

/// The host name of `ip` from `/etc/hosts` or the name service.
///
/// # Errors
/// The resolver's words, when there is no name or no answer.
pub fn hostname_of(ip: IpAddr) -> io::Result<String> {
    const NI_MAXHOST: usize = 1025;
    let mut host = [0; NI_MAXHOST];
    let code = match ip {
        IpAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                sin_zero: [0; 8],
            };
            name_info(&address, &mut host)
        }
        IpAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.octets() },
                sin6_scope_id: 0,
            };
            name_info(&address, &mut host)
        }
    };
    if code != 0 {
        // SAFETY: gai_strerror takes any number and returns a static C string.
        let words = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
        return Err(io::Error::other(words.to_string_lossy().into_owned()));
    }
    let bytes: Vec<u8> = host.iter().take_while(|c| **c != 0).map(|c| c.to_ne_bytes()[0]).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `getnameinfo` of one address; a name is required, digits will not do.
fn name_info<A>(address: &A, host: &mut [libc::c_char]) -> libc::c_int {
    // SAFETY: `address` is a socket address structure of exactly the given size,
    // `host` a writable buffer of exactly the given length, and no service name
    // is asked for (null pointer, length zero).
    unsafe {
        libc::getnameinfo(
            std::ptr::from_ref(address).cast(),
            size_of::<A>() as libc::socklen_t,
            host.as_mut_ptr(),
            host.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_name_and_a_test_address_has_none() {
        // RFC 5737 keeps 192.0.2.0/24 for documentation; offline this may take
        // the resolver's word that it cannot answer, which is an error as well.
        assert_eq!(hostname_of([127, 0, 0, 1].into()).expect("in /etc/hosts"), "localhost");
        assert!(hostname_of([192, 0, 2, 1].into()).is_err());
    }
}
