//! The envelope in which a provider key rests, and the ring of master keys that opens it.
//!
//! AES-256-GCM. Envelope = version (1 byte) | key id (8 bytes, the fingerprint of the master key)
//! | nonce (12 random bytes, fresh on every seal) | ciphertext and tag.
//! The associated data binds an envelope to its user, provider and origin, so that one that was
//! copied to another row, or whose provider now points at another host, does not open.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use ring::hmac;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const VERSION: u8 = 1;
const ID_LEN: usize = 8;
const NONCE_LEN: usize = 12;
const HEADER_LEN: usize = 1 + ID_LEN + NONCE_LEN;

/// Why an envelope could not be sealed or opened. Never carries key material.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("not an envelope of this extension")]
    Malformed,
    #[error("master key {0} is not in the keyring")]
    MissingMasterKey(String),
    #[error("the envelope belongs to another user, provider or host, or was altered")]
    Refused,
    #[error("the system's random source failed")]
    Random,
    #[error("the provider's URL has no origin")]
    Origin,
}

/// What an envelope is bound to.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Binding {
    /// `None` is a platform key.
    pub user_id: Option<String>,
    pub provider_id: Uuid,
    /// Scheme, host and port of the provider.
    pub origin: String,
}

impl Binding {
    /// Binds to the origin of `base_url`.
    pub fn new(
        user_id: Option<String>,
        provider_id: Uuid,
        base_url: &str,
    ) -> Result<Self, SecretError> {
        Ok(Self { user_id, provider_id, origin: origin(base_url)? })
    }

    /// Unambiguous bytes: every part carries its length, and "no user" differs from "".
    fn associated_data(&self) -> Vec<u8> {
        let mut out = b"aggregator/1".to_vec();
        match &self.user_id {
            None => out.push(0),
            Some(user) => {
                out.push(1);
                out.extend((user.len() as u64).to_le_bytes());
                out.extend(user.as_bytes());
            }
        }
        out.extend(self.provider_id.as_bytes());
        out.extend((self.origin.len() as u64).to_le_bytes());
        out.extend(self.origin.as_bytes());
        out
    }
}

/// Scheme, host and port of a URL, as `https://host:443`.
pub fn origin(url: &str) -> Result<String, SecretError> {
    let url = Url::parse(url).map_err(|_| SecretError::Origin)?;
    let host = url.host_str().ok_or(SecretError::Origin)?;
    let port = url.port_or_known_default().ok_or(SecretError::Origin)?;
    Ok(format!("{}://{host}:{port}", url.scheme()))
}

/// A 256-bit master key. Wiped when dropped; never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey {
    bytes: [u8; 32],
    /// Of the bytes; asked for with every envelope.
    #[zeroize(skip)]
    id: [u8; ID_LEN],
}

impl MasterKey {
    pub fn random() -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(|_| SecretError::Random)?;
        Ok(Self::new(*bytes))
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self::new(bytes.try_into().ok()?))
    }

    fn new(bytes: [u8; 32]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"aggregator master key id");
        hash.update(bytes);
        let digest = hash.finalize();
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&digest[..ID_LEN]);
        Self { bytes, id }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The fingerprint that envelopes name: it tells keys apart and says nothing of the key.
    pub fn id(&self) -> [u8; ID_LEN] {
        self.id
    }

    pub fn hex_id(&self) -> String {
        hex(&self.id())
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&self.bytes).into())
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MasterKey({})", self.hex_id())
    }
}

/// Master keys, oldest first. The last one seals; every one opens, those of rotations that are not
/// committed as well.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    keys: Vec<MasterKey>,
    pending: Vec<MasterKey>,
}

impl Ring {
    #[cfg(test)]
    pub fn new(keys: Vec<MasterKey>) -> Self {
        Self { keys, pending: Vec::new() }
    }

    /// With keys of rotations that are not committed: these seal nothing by themselves.
    pub fn with_pending(keys: Vec<MasterKey>, pending: Vec<MasterKey>) -> Self {
        Self { keys, pending }
    }

    pub fn keys(&self) -> &[MasterKey] {
        &self.keys
    }

    pub fn pending(&self) -> &[MasterKey] {
        &self.pending
    }

    /// Adds a key of a rotation that is not committed yet.
    pub fn push_pending(&mut self, key: MasterKey) {
        self.pending.push(key);
    }

    /// The rotation of this key is committed: it seals from now on. False: there is no such key.
    pub fn promote(&mut self, key_id: &str) -> bool {
        let Some(at) = self.pending.iter().position(|key| key.hex_id() == key_id) else {
            return self.keys.iter().any(|key| key.hex_id() == key_id);
        };
        let key = self.pending.remove(at);
        self.keys.push(key);
        true
    }

    /// The rotation of this key was rolled back.
    pub fn drop_pending(&mut self, key_id: &str) {
        self.pending.retain(|key| key.hex_id() != key_id);
    }

    /// Seals with the newest key under a fresh nonce.
    pub fn seal(&self, plaintext: &[u8], binding: &Binding) -> Result<Vec<u8>, SecretError> {
        Self::seal_by(self.newest()?, plaintext, &binding.associated_data())
    }

    /// Seals with the key of this id, pending or not.
    pub fn seal_with(
        &self,
        key_id: &str,
        plaintext: &[u8],
        binding: &Binding,
    ) -> Result<Vec<u8>, SecretError> {
        let key = self.all().find(|key| key.hex_id() == key_id);
        let key = key.ok_or_else(|| SecretError::MissingMasterKey(key_id.to_owned()))?;
        Self::seal_by(key, plaintext, &binding.associated_data())
    }

    /// Seals an answer of the response cache, bound to what it is found by.
    pub fn seal_answer(&self, answer: &[u8], found_by: &Print) -> Result<Vec<u8>, SecretError> {
        Self::seal_by(self.newest()?, answer, &found_by.associated_data())
    }

    /// Opens an answer that was sealed for the same.
    pub fn open_answer(
        &self,
        envelope: &[u8],
        found_by: &Print,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        self.open_with(envelope, &found_by.associated_data())
    }

    /// Seals what one gateway tells another that has the same master keys. `purpose` says who tells whom.
    pub fn seal_message(&self, message: &[u8], purpose: &str) -> Result<Vec<u8>, SecretError> {
        Self::seal_by(self.newest()?, message, &Self::message_data(purpose))
    }

    /// Opens a message that was sealed for the same purpose.
    pub fn open_message(
        &self,
        envelope: &[u8],
        purpose: &str,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        self.open_with(envelope, &Self::message_data(purpose))
    }

    /// Begins like that of no other envelope.
    fn message_data(purpose: &str) -> Vec<u8> {
        [b"aggregator message/1 ", purpose.as_bytes()].concat()
    }

    /// What makes prints of requests: who has not the newest master key can neither make them nor try guesses on
    /// them. Another master key makes others.
    pub fn printer(&self) -> Result<Printer, SecretError> {
        let master = hmac::Key::new(hmac::HMAC_SHA256, self.newest()?.bytes());
        let derived = hmac::sign(&master, b"aggregator prints of requests/1");
        Ok(Printer(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())))
    }

    fn newest(&self) -> Result<&MasterKey, SecretError> {
        self.keys.last().ok_or_else(|| SecretError::MissingMasterKey("(none)".to_owned()))
    }

    fn all(&self) -> impl Iterator<Item = &MasterKey> {
        self.keys.iter().chain(&self.pending)
    }

    fn seal_by(key: &MasterKey, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, SecretError> {
        let mut nonce = [0u8; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SecretError::Random)?;
        let sealed = key
            .cipher()
            .encrypt(Nonce::from_slice(&nonce), Payload { msg: plaintext, aad })
            .map_err(|_| SecretError::Refused)?;
        let mut out = Vec::with_capacity(HEADER_LEN + sealed.len());
        out.push(VERSION);
        out.extend(key.id());
        out.extend(nonce);
        out.extend(sealed);
        Ok(out)
    }

    /// Opens an envelope with the key that it names.
    pub fn open(
        &self,
        envelope: &[u8],
        binding: &Binding,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        self.open_with(envelope, &binding.associated_data())
    }

    fn open_with(&self, envelope: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        if envelope.len() <= HEADER_LEN || envelope[0] != VERSION {
            return Err(SecretError::Malformed);
        }
        let (header, sealed) = envelope.split_at(HEADER_LEN);
        let (id, nonce) = header[1..].split_at(ID_LEN);
        let key = self
            .all()
            .find(|key| key.id() == id)
            .ok_or_else(|| SecretError::MissingMasterKey(hex(id)))?;
        key.cipher()
            .decrypt(Nonce::from_slice(nonce), Payload { msg: sealed, aad })
            .map(Zeroizing::new)
            .map_err(|_| SecretError::Refused)
    }
}

/// By which an answer of the response cache is found: of a request, of whom it is for, and of who may answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Print(pub [u8; 32]);

impl Print {
    /// Begins as no key's does.
    fn associated_data(&self) -> Vec<u8> {
        [b"aggregator answer/1".as_slice(), &self.0].concat()
    }
}

/// Makes prints.
#[derive(Clone)]
pub struct Printer(hmac::Key);

impl Printer {
    /// The print of these parts, each of which carries its length: none can be moved into the next.
    pub fn print(&self, parts: &[&[u8]]) -> Print {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut print = [0; 32];
        print.copy_from_slice(context.sign().as_ref());
        Print(print)
    }
}

/// The id of the master key that an envelope names.
pub fn key_id_of(envelope: &[u8]) -> String {
    envelope.get(1..=ID_LEN).map(hex).unwrap_or_default()
}

/// What a person may see of a key to tell it from their others: its ends, if it is long enough
/// that the ends give nothing away.
pub fn hint(key: &str) -> String {
    let chars: Vec<char> = key.chars().collect();
    if chars.len() < 16 {
        return "…".to_owned();
    }
    let head: String = chars[..3].iter().collect();
    let tail: String = chars[chars.len() - 4..].iter().collect();
    format!("{head}…{tail}")
}

/// Removes `key`, and anything that looks like a provider key, from text that came from outside.
pub fn scrub(text: &str, key: Option<&str>) -> String {
    let text = match key {
        Some(key) if key.len() >= 4 => text.replace(key, "[key]"),
        _ => text.to_owned(),
    };
    let is_key = |word: &str| {
        let word = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        ["sk-", "sk_", "gsk_", "xai-", "AIza", "key-"].iter().any(|p| word.starts_with(p))
    };
    text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ':' | '='))
        .map(|word| if is_key(word) { "[key] " } else { word })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A short print of an envelope: another one after every seal.
pub fn print_of(envelope: &[u8]) -> i64 {
    let hash = Sha256::digest(envelope);
    i64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(user: Option<&str>) -> Binding {
        Binding::new(user.map(str::to_owned), Uuid::from_u128(7), "https://openrouter.ai/api/v1")
            .unwrap()
    }

    fn ring() -> Ring {
        Ring::new(vec![MasterKey::from_bytes(&[3; 32]).unwrap()])
    }

    #[test]
    fn opens_what_it_sealed_and_never_repeats_a_nonce() {
        let ring = ring();
        let a = ring.seal(b"sk-secret", &binding(Some("u"))).unwrap();
        let b = ring.seal(b"sk-secret", &binding(Some("u"))).unwrap();
        assert_ne!(a, b);
        assert_eq!(ring.open(&a, &binding(Some("u"))).unwrap().as_slice(), b"sk-secret");
        assert!(!a.windows(9).any(|w| w == b"sk-secret"));
    }

    #[test]
    fn refuses_another_user_provider_or_host() {
        let ring = ring();
        let sealed = ring.seal(b"k", &binding(Some("a"))).unwrap();
        assert_eq!(ring.open(&sealed, &binding(Some("b"))), Err(SecretError::Refused));
        assert_eq!(ring.open(&sealed, &binding(None)), Err(SecretError::Refused));
        let mut other = binding(Some("a"));
        other.provider_id = Uuid::from_u128(8);
        assert_eq!(ring.open(&sealed, &other), Err(SecretError::Refused));
        let other =
            Binding::new(Some("a".into()), Uuid::from_u128(7), "https://evil.example/api").unwrap();
        assert_eq!(ring.open(&sealed, &other), Err(SecretError::Refused));
    }

    #[test]
    fn a_platform_key_is_not_the_key_of_a_user_named_by_nothing() {
        let ring = ring();
        let sealed = ring.seal(b"k", &binding(None)).unwrap();
        assert_eq!(ring.open(&sealed, &binding(Some(""))), Err(SecretError::Refused));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let ring = ring();
        let sealed = ring.seal(b"sk", &binding(None)).unwrap();
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert!(ring.open(&bad, &binding(None)).is_err(), "byte {i}");
        }
        for len in 0..sealed.len() {
            assert!(ring.open(&sealed[..len], &binding(None)).is_err(), "length {len}");
        }
    }

    #[test]
    fn rotation_opens_old_envelopes_and_seals_with_the_new_key() {
        let mut ring = ring();
        let old = ring.seal(b"k", &binding(None)).unwrap();
        let key = MasterKey::from_bytes(&[4; 32]).unwrap();
        let id = key.hex_id();
        ring.push_pending(key);
        // Until the rotation is committed, the new key seals only what the rotation itself seals.
        assert_eq!(ring.seal(b"k", &binding(None)).unwrap()[1..9], old[1..9]);
        let resealed = ring.seal_with(&id, b"k", &binding(None)).unwrap();
        assert_eq!(key_id_of(&resealed), id);
        assert!(ring.open(&resealed, &binding(None)).is_ok());
        assert!(ring.promote(&id) && ring.promote(&id) && !ring.promote("00"));
        assert!(ring.open(&old, &binding(None)).is_ok());
        let new = ring.seal(b"k", &binding(None)).unwrap();
        assert_eq!(key_id_of(&new), id);
        let only_new = Ring::new(vec![MasterKey::from_bytes(&[4; 32]).unwrap()]);
        assert!(matches!(
            only_new.open(&old, &binding(None)),
            Err(SecretError::MissingMasterKey(id)) if id == ring.keys()[0].hex_id()
        ));
    }

    #[test]
    fn an_answer_opens_for_what_it_was_sealed_for_alone() {
        let ring = ring();
        let printer = ring.printer().unwrap();
        let (one, other) = (printer.print(&[b"a", b"bc"]), printer.print(&[b"ab", b"c"]));
        assert_ne!(one, other);
        assert_eq!(one, ring.printer().unwrap().print(&[b"a", b"bc"]));
        let sealed = ring.seal_answer(b"hello", &one).unwrap();
        assert_eq!(ring.open_answer(&sealed, &one).unwrap().as_slice(), b"hello");
        assert_eq!(ring.open_answer(&sealed, &other), Err(SecretError::Refused));
        assert_eq!(ring.open(&sealed, &binding(None)), Err(SecretError::Refused));
        // Nor is a key an answer.
        let key = ring.seal(b"k", &binding(None)).unwrap();
        assert_eq!(ring.open_answer(&key, &one), Err(SecretError::Refused));
        let another = Ring::new(vec![MasterKey::from_bytes(&[4; 32]).unwrap()]);
        assert_ne!(another.printer().unwrap().print(&[b"a", b"bc"]), one);
        assert!(Ring::default().printer().is_err());
    }

    #[test]
    fn debug_output_has_no_key() {
        assert!(!format!("{:?}", ring()).contains("3, 3"));
    }

    #[test]
    fn hints_show_only_long_keys() {
        assert_eq!(hint("sk-or-v1-0123456789abcd"), "sk-…abcd");
        assert_eq!(hint("short"), "…");
        assert_eq!(hint("ключключключключ"), "клю…ключ");
    }

    #[test]
    fn scrubbing_removes_the_key_and_its_like() {
        let text = scrub(
            "Incorrect API key provided: sk-abc***xyz. Sent my-odd-token!",
            Some("my-odd-token"),
        );
        assert!(!text.contains("sk-abc") && !text.contains("my-odd-token"), "{text}");
        assert!(text.starts_with("Incorrect API key provided"));
    }

    #[test]
    fn origins_know_default_ports() {
        assert_eq!(origin("https://a.example/v1").unwrap(), "https://a.example:443");
        assert_eq!(origin("http://127.0.0.1:4010/v1").unwrap(), "http://127.0.0.1:4010");
        assert!(origin("not a url").is_err());
    }
}
