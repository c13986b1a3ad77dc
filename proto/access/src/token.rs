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
/// Hexadecimal digits after the start by which a token is known, whatever stands before it.
const TELLING_DIGITS: usize = 16;
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
    /// There is a token in it, and more, or in another case. The text is not repeated.
    #[error(
        "there is more in it than a token, or its letters are of another case: a token begins with `{TOKEN_START}` and \
         has nothing around it, no quotes and no `Bearer`"
    )]
    Around,
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
        let [VERSION, pin, id, secret] = parts[..] else {
            let is_wrapped = has_token(text) && !text.trim().starts_with(TOKEN_START);
            return Err(if is_wrapped { TokenError::Around } else { TokenError::Form });
        };
        let pin = pin.parse().map_err(|_| TokenError::Part("PIN"))?;
        let id = id.parse()?;
        let mut bytes = [0; SECRET_BYTES];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| TokenError::Part("SECRET"))?;
        Ok(Self { pin, id, secret: Secret(bytes) })
    }
}

/// Whether a token is meant by `text`, or by a part of it, in whatever case: what is no token then is a slip of the one
/// who wrote it, and holds a secret all the same.
pub fn has_token(text: &str) -> bool {
    starts(text).any(|at| {
        let is_word = text[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric());
        is_word || begins_as_pin(text, at)
    })
}

/// Whether an address holds a token. Hosts may be called `ty1.org` and `city1.org`.
pub(crate) fn has_token_in_address(text: &str) -> bool {
    starts(text).any(|at| begins_as_pin(text, at))
}

/// The places in a text at which a token may begin.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    let length = TOKEN_START.len();
    let is_start = move |at: &usize| {
        text.get(*at..*at + length).is_some_and(|part| part.eq_ignore_ascii_case(TOKEN_START))
    };
    text.char_indices().map(|(at, _)| at).filter(is_start)
}

fn begins_as_pin(text: &str, at: usize) -> bool {
    let rest = &text.as_bytes()[at + TOKEN_START.len()..];
    rest.len() >= TELLING_DIGITS && rest[..TELLING_DIGITS].iter().all(u8::is_ascii_hexdigit)
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

    #[test]
    fn a_token_with_something_around_it_or_in_another_case_is_known_for_one_and_not_repeated() {
        let whole = Token::make(pin()).unwrap().reveal();
        for text in [
            format!("\"{whole}\""),
            format!("'{whole}"),
            format!("Bearer {whole}"),
            format!("YARD_TOKEN={whole}"),
            format!("x{whole}"),
            whole.to_uppercase(),
        ] {
            assert!(has_token(&text), "{text}");
            let error = text.parse::<Token>().unwrap_err();
            assert_eq!(error, TokenError::Around, "{text}");
            assert!(!error.to_string().contains(&whole[4..20]));
        }
        assert!(has_token(&whole) && has_token("ty1.cut"));
        for other in ["", "hunter2", "ty1", "aty1.b", "eyJhbGci.Qty1.c2ln"] {
            assert!(!has_token(other), "{other}");
        }
    }
}
