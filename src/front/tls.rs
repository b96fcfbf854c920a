//! TLS, for those who have no proxy that speaks it.

use crate::front::files;
use crate::gateway::Http;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// From the first byte of a connection to its first request.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of a file with a certificate, and those of its authorities.
const LONGEST_CERTIFICATE: usize = 256 * 1024;
const LONGEST_KEY: usize = 64 * 1024;

/// With what connections are encrypted. `None`: they are not to be. What cannot be read is an error, and never a
/// reason to do without.
pub fn read(http: &Http) -> Result<Option<TlsAcceptor>, String> {
    let (certificate, key) = match (&http.tls_certificate, &http.tls_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err("aggregator.http_tls_key is not set".to_owned()),
        (None, Some(_)) => return Err("aggregator.http_tls_certificate is not set".to_owned()),
    };
    let about_certificate = |problem| format!("aggregator.http_tls_certificate: {problem}");
    let about_key = |problem| format!("aggregator.http_tls_key: {problem}");
    let certificates = read_certificates(certificate).map_err(about_certificate)?;
    let key = read_key(key).map_err(about_key)?;
    let provider = Arc::new(ring::default_provider());
    // TLS 1.2 and 1.3: rustls has no earlier one.
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| about_certificate(format!("with this key: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = files::read(path, LONGEST_CERTIFICATE)?;
    if pem.len() > LONGEST_CERTIFICATE {
        return Err(format!("it has more than {LONGEST_CERTIFICATE} bytes"));
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("there is none in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

/// The error says nothing of what is in the file.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = files::read_secret(path, LONGEST_KEY)?;
    if pem.len() > LONGEST_KEY {
        return Err(format!("it has more than {LONGEST_KEY} bytes"));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| "there is no private key in it".to_owned())
}
