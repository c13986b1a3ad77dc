//! Tokens: who has one can check the server before sending it, and is known by it.

use std::fmt;
use std::str::FromStr;

use rustls::crypto::GetRandomFailed;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop};

use crate::pin::Pin;

/// The version of a token's form, which is its first part.
const VERSION: &str = "ty1";
/// What every token begins with, wherever it stands.
pub const TOKEN_START: &str = "ty1.";
/// Bytes of a token's id, and of its secret: 256 bits need no slow hash.
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// Names a token without giving it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; ID_BYTES]);

/// The secret part of a token.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Secret([u8; SECRET_BYTES]);

/// The SHA-256 of a secret, which is what schedulers keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// `ty1.PIN.ID.SECRET`, each in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Names the authority of the cluster that it is for.
    pub pin: Pin,
    /// Names the token.
    pub id: TokenId,
    /// Proves that its bearer was given it.
    pub secret: Secret,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not have four parts, the first of which is known.
    #[error("it is no token: one looks like `{VERSION}.PIN.ID.SECRET`")]
    Form,
    /// A part is not what it should be. The text is not repeated: it may be secret.
    #[error("its part {0} is damaged: copy the whole token again")]
    Part(&'static str),
}

impl Token {
    /// A new token for the cluster whose authority has this pin.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn make(pin: Pin) -> Result<Self, GetRandomFailed> {
        Ok(Self { pin, id: TokenId(crate::random()?), secret: Secret(crate::random()?) })
    }

    /// The whole token, for whoever is to have it.
    pub fn reveal(&self) -> String {
        let mut secret = hex::encode(self.secret.0);
        let text = format!("{VERSION}.{}.{}.{secret}", self.pin, self.id);
        secret.zeroize();
        text
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [VERSION, pin, id, secret] = parts[..] else { return Err(TokenError::Form) };
        let pin = pin.parse().map_err(|_| TokenError::Part("PIN"))?;
        let id = id.parse()?;
        let mut bytes = [0; SECRET_BYTES];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| TokenError::Part("SECRET"))?;
        Ok(Self { pin, id, secret: Secret(bytes) })
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut id = [0; ID_BYTES];
        hex::decode_to_slice(text, &mut id).map_err(|_| TokenError::Part("ID"))?;
        Ok(Self(id))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// What a scheduler keeps of it.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.0).into())
    }
}

impl Digest {
    /// Whether it is `secret`'s; takes as long whether it is or not.
    pub fn is_of(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.digest().0).into()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Digest {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest)?;
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        "00112233445566778899aabbccddeeff".parse().unwrap()
    }

    #[test]
    fn a_token_survives_its_text_and_no_print_shows_its_secret() {
        let token = Token::make(pin()).unwrap();
        let text = token.reveal();
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        let secret = text.rsplit('.').next().unwrap();
        assert!(!format!("{token:?}").contains(secret));
        assert_ne!(Token::make(pin()).unwrap().secret, token.secret);
    }

    #[test]
    fn only_its_own_secret_has_a_digest() {
        let (one, other) = (Token::make(pin()).unwrap(), Token::make(pin()).unwrap());
        let digest: Digest = one.secret.digest().to_string().parse().unwrap();
        assert!(digest.is_of(&one.secret));
        assert!(!digest.is_of(&other.secret));
    }

    #[test]
    fn what_is_no_token_is_told_apart_and_not_repeated() {
        let whole = Token::make(pin()).unwrap().reveal();
        let short = &whole[..whole.len() - 1];
        let table = [
            ("", TokenError::Form),
            ("hunter2", TokenError::Form),
            ("ty2.a.b.c", TokenError::Form),
            ("ty1.xy.b.c", TokenError::Part("PIN")),
            ("ty1.00112233445566778899aabbccddeeff.b.c", TokenError::Part("ID")),
            (short, TokenError::Part("SECRET")),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<Token>(), Err(error), "{text}");
        }
    }
}
