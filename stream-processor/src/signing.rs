//! Keys that published sets of detections are signed with: Ed25519, as OpenSSL writes them.
//!
//! ```text
//! dogwatch detections keygen team.pem      or      openssl genpkey -algorithm ed25519 -out team.pem
//! team.pem (PKCS #8) ─► sign                       its public half, 64 hexadecimal digits ─► detections.trusted_keys
//! ```
//! No clock and no I/O: texts are handed in.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410).
const SECRET_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// The lines around it.
const SECRET_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const SECRET_END: &str = "-----END PRIVATE KEY-----";

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no public key.
    #[error(
        "{found:?} is no public key: give the 64 hexadecimal digits that dogwatch detections keygen prints"
    )]
    Public {
        /// What stands there, cut.
        found: String,
    },
    /// It is no secret key.
    #[error(
        "it is no Ed25519 key in PEM (PKCS #8, without a password): make one with dogwatch detections keygen, or openssl genpkey -algorithm ed25519"
    )]
    Secret,
}

/// Who may publish: half of a key, which anyone may know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let refused = || KeyError::Public {
            found: text.chars().take(80).collect(),
        };
        let bytes: [u8; 32] = bytes(text).ok_or_else(refused)?;
        VerifyingKey::from_bytes(&bytes)
            .ok()
            .filter(|key| !key.is_weak())
            .map(Self)
            .ok_or_else(refused)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .as_bytes()
            .iter()
            .try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PublicKey({self})")
    }
}

impl PublicKey {
    /// Whether this is the key's signature of a text.
    #[must_use]
    pub fn signed(&self, text: &[u8], signature: &str) -> bool {
        let signature: Option<[u8; 64]> = bytes(signature);
        let signature = signature.map(|bytes| Signature::from_bytes(&bytes));
        signature.is_some_and(|signature| self.0.verify_strict(text, &signature).is_ok())
    }
}

/// The half of a key that signs. It is never printed.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new one.
    #[must_use]
    pub fn draw() -> Self {
        Self(SigningKey::from_bytes(&rand::random()))
    }

    /// Reads it from the text of a file.
    ///
    /// # Errors
    /// [`KeyError::Secret`] when it is none.
    pub fn of_pem(text: &str) -> Result<Self, KeyError> {
        let inner = text.trim().strip_prefix(SECRET_BEGIN);
        let inner = inner.and_then(|text| text.strip_suffix(SECRET_END));
        let inner: String = inner
            .ok_or(KeyError::Secret)?
            .split_ascii_whitespace()
            .collect();
        let der = STANDARD.decode(inner).map_err(|_| KeyError::Secret)?;
        let seed = der.strip_prefix(&SECRET_PREFIX).ok_or(KeyError::Secret)?;
        let seed: &[u8; 32] = seed.try_into().map_err(|_| KeyError::Secret)?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// Writes it as a file has it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut der = SECRET_PREFIX.to_vec();
        der.extend(self.0.as_bytes());
        format!("{SECRET_BEGIN}\n{}\n{SECRET_END}\n", STANDARD.encode(der))
    }

    /// The half that anyone may know.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a text; the signature is 128 hexadecimal digits.
    #[must_use]
    pub fn sign(&self, text: &[u8]) -> String {
        let signature = self.0.sign(text).to_bytes();
        signature.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Reads hexadecimal digits.
fn bytes<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    if text.len() != 2 * LENGTH || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first key and signature of RFC 8032, 7.1, the key as OpenSSL writes it.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const SIGNATURE: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    #[test]
    fn keys_and_signatures_are_those_of_the_standard() {
        let secret = SecretKey::of_pem(PEM).expect("a key");
        assert_eq!(secret.to_pem(), PEM);
        assert_eq!(secret.public().to_string(), PUBLIC);
        assert_eq!(secret.sign(b""), SIGNATURE);
        let public: PublicKey = PUBLIC.parse().expect("a key");
        assert!(public.signed(b"", SIGNATURE));
        assert!(!public.signed(b"x", SIGNATURE));
        assert!(!public.signed(b"", &SIGNATURE.replace("e5", "e6")));
        assert!(!public.signed(b"", "e5") && !public.signed(b"", ""));
    }

    #[test]
    fn a_drawn_key_signs_for_itself_alone() {
        let (one, other) = (SecretKey::draw(), SecretKey::draw());
        let again = SecretKey::of_pem(&one.to_pem()).expect("a key");
        assert!(one.public().signed(b"text", &again.sign(b"text")));
        assert!(!other.public().signed(b"text", &one.sign(b"text")));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "é",
            &PUBLIC[1..],
            &PUBLIC.replace('d', "g"),
            &"0".repeat(64),
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
        }
        let rsa = PEM.replace("MC4CAQ", "MC5CAQ");
        for text in ["", "x", SECRET_BEGIN, &PEM[..60], &rsa] {
            assert_eq!(
                SecretKey::of_pem(text).err(),
                Some(KeyError::Secret),
                "{text:?}"
            );
        }
    }
}
