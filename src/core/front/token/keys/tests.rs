use super::*;
use Algorithm::*;

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// RFC 7517, A.1.
const P256: &str = r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM""#;

fn oct(len: usize) -> String {
    format!(r#""kty":"oct","k":"{}""#, base64(&vec![7; len]))
}

fn rsa(n: &[u8], e: &[u8]) -> String {
    format!(r#""kty":"RSA","n":"{}","e":"{}""#, base64(n), base64(e))
}

fn error(secret: &str) -> KeyError {
    match Keys::parse(secret.as_bytes()) {
        Ok(_) => panic!("taken: {secret}"),
        Err(error) => error,
    }
}

/// What the only key of a secret is for.
fn algorithms(secret: &str) -> Vec<Algorithm> {
    let keys = Keys::parse(secret.as_bytes()).unwrap_or_else(|error| panic!("{error}: {secret}"));
    assert_eq!(keys.keys.len(), 1);
    let all = [Hs256, Hs384, Hs512, Es256, Rs256, Ps256, EdDsa];
    all.into_iter().filter(|algorithm| keys.keys[0].is_for(*algorithm)).collect()
}

#[test]
fn a_key_is_for_what_its_type_is_for() {
    let text = "super-secret-jwt-token-with-at-least-32-characters-long-and-even-more";
    assert_eq!(algorithms(text), [Hs256]);
    assert_eq!(algorithms(&format!("{text}\n")), [Hs256]);
    assert_eq!(algorithms(&format!("{{{}}}", oct(32))), [Hs256]);
    assert_eq!(algorithms(&format!("{{{}}}", oct(47))), [Hs256]);
    assert_eq!(algorithms(&format!("{{{}}}", oct(48))), [Hs256, Hs384]);
    assert_eq!(algorithms(&format!("{{{}}}", oct(64))), [Hs256, Hs384, Hs512]);
    assert_eq!(algorithms(&format!(r#"{{"alg":"HS384",{}}}"#, oct(64))), [Hs384]);
    assert_eq!(algorithms(&format!("{{{P256}}}")), [Es256]);
    assert_eq!(algorithms(&format!(r#"{{"keys":[{{{P256},"alg":"ES256"}}]}}"#)), [Es256]);
    let modulus = rsa(&[0xff; 256], &[1, 0, 1]);
    assert_eq!(algorithms(&format!("{{{modulus}}}")), [Rs256, Ps256]);
    assert_eq!(algorithms(&format!(r#"{{{modulus},"alg":"PS256"}}"#)), [Ps256]);
    // RFC 8037, A.2.
    let okp = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
    for alg in ["", r#","alg":"EdDSA""#, r#","alg":"Ed25519""#, r#","alg":null"#] {
        assert_eq!(algorithms(&format!("{{{okp}{alg}}}")), [EdDsa]);
    }
    // As Supabase's own set has them.
    let keys = format!(
        r#"{{"keys":[{{{P256},"kid":"a","use":"sig","key_ops":["verify"],"ext":true}},{{{}}}]}}"#,
        oct(40)
    );
    let keys = Keys::parse(keys.as_bytes()).unwrap();
    assert_eq!((keys.keys.len(), keys.skipped().len()), (2, 0));
}

#[test]
fn what_others_may_know_is_no_secret() {
    let spki = [&[0x30, 0x59, 0x30, 0x13, 0x06, 0x07][..], &[1; 0x55]].concat();
    let long = [&[0x30, 0x82, 0x01, 0x22, 0x30][..], &[2; 0x121]].concat();
    let medium = [&[0x30, 0x81, 0x9f, 0x30][..], &[2; 0x9e]].concat();
    let pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----";
    let jwks = format!(r#"{{"keys":[{{{P256}}}]}}"#);
    let standard = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    for text in [
        pem.to_owned(),
        format!("{pem}\n"),
        pem.replace('\n', " "),
        pem.replace('\n', "\\n"),
        standard(pem.as_bytes()),
        standard(&spki),
        standard(&medium),
        standard(&long),
        base64(&long),
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4 somebody@somewhere".to_owned(),
        "https://project.supabase.co/auth/v1/.well-known/jwks.json".to_owned(),
        "HTTP://127.0.0.1:9999/.well-known/jwks.json".to_owned(),
        format!("JWT_JWKS={jwks}"),
        format!("'{jwks}'"),
        standard(jwks.as_bytes()),
        base64(jwks.as_bytes()),
    ] {
        assert_eq!(error(&text), KeyError::Public, "{text}");
        // Nor is it one inside of a key.
        let key = format!(r#"{{"kty":"oct","k":"{}"}}"#, base64(text.as_bytes()));
        assert!(matches!(error(&key), KeyError::Key { number: 1, .. }), "{text}");
    }
    for bytes in [spki, medium, long] {
        let key = format!(r#"{{"kty":"oct","k":"{}"}}"#, base64(&bytes));
        assert!(matches!(error(&key), KeyError::Key { number: 1, .. }));
    }
}

#[test]
fn a_broken_set_is_not_taken_for_text() {
    for text in [
        "{",
        "[]",
        "[{\"kty\":\"oct\",\"k\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}]",
        "\"a quoted secret that is longer than 32 bytes\"",
        " { \"keys\": {} } ",
        "{\"keys\":null}",
        "{\"keys\":[]} and something behind it",
        &format!("{{{P256},\"kty\":\"oct\"}}"),
        "{the secret of somebody who likes braces}",
    ] {
        assert!(matches!(error(text), KeyError::NotJwk(_)), "{text}");
    }
    for text in [
        format!("\u{feff}{{{P256}}}"),
        "\u{feff}super-secret-jwt-token-with-at-least-32-characters".to_owned(),
        " super-secret-jwt-token-with-at-least-32-characters".to_owned(),
        "super-secret-jwt-token-with-at-least-32-characters\n\n".to_owned(),
        "super-secret-jwt-token-with-at-least-32-characters\r\n".to_owned(),
        "super-secret-jwt-token\0with-at-least-32-characters".to_owned(),
    ] {
        assert_eq!(
            error(&text),
            if text.contains("kty") { KeyError::Public } else { KeyError::NotText }
        );
    }
    let utf16: Vec<u8> = "{\"keys\":[]}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(Keys::parse(&[&[0xff, 0xfe], &utf16[..]].concat()).err(), Some(KeyError::NotText));
    assert_eq!(error(""), KeyError::TooShort);
    assert_eq!(error(&"x".repeat(31)), KeyError::TooShort);
    assert!(Keys::parse("x".repeat(32).as_bytes()).is_ok());
    assert_eq!(error(&"x".repeat(LONGEST_SECRET + 1)), KeyError::TooLong);
    assert_eq!(error(r#"{"keys":[]}"#), KeyError::NoneUsable);
}

#[test]
fn a_broken_key_is_refused_and_a_strange_one_is_skipped() {
    let point = |x: &[u8], y: &[u8]| {
        format!(r#""kty":"EC","crv":"P-256","x":"{}","y":"{}""#, base64(x), base64(y))
    };
    for key in [
        r#""k":"AA""#.to_owned(),
        r#""kty":7"#.to_owned(),
        r#""kty":"oct""#.to_owned(),
        r#""kty":"oct","k":"AAAA=""#.to_owned(),
        format!(r#"{},"use":1"#, oct(32)),
        format!(r#"{},"key_ops":"verify""#, oct(32)),
        oct(31),
        // Standard digits, padding, and bits beyond the last byte.
        format!(r#""kty":"oct","k":"{}+/""#, "A".repeat(60)),
        format!(r#""kty":"oct","k":"{}A=""#, "A".repeat(42)),
        format!(r#""kty":"oct","k":"{}B""#, "A".repeat(42)),
        format!(r#"{},"alg":"HS384""#, oct(47)),
        format!(r#"{},"alg":"RS256""#, oct(64)),
        format!(r#"{P256},"alg":"HS256""#),
        point(&[1; 32], &[1; 32]),
        point(&[0; 32], &[0; 32]),
        point(&[1; 31], &[1; 33]),
        r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4""#.to_owned(),
        format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, base64(&[1; 33])),
        rsa(&[0xff; 255], &[1, 0, 1]),
        rsa(&[&[0x7f][..], &[0xff; 255]].concat(), &[1, 0, 1]),
        rsa(&[&[0; 128][..], &[0xff; 128]].concat(), &[1, 0, 1]),
        rsa(&[0xff; 1025], &[1, 0, 1]),
        rsa(&[0xfe; 256], &[1, 0, 1]),
        rsa(&[0xff; 256], &[1]),
        rsa(&[0xff; 256], &[2]),
        rsa(&[0xff; 256], &[]),
        rsa(&[0xff; 256], &[0xff; 5]),
    ] {
        let only = error(&format!("{{{key}}}"));
        assert!(matches!(only, KeyError::Key { number: 1, .. }), "{only}: {key}");
        let among = error(&format!(r#"{{"keys":[{{{}}},{{{key}}}]}}"#, oct(32)));
        assert!(matches!(among, KeyError::Key { number: 2, .. }), "{among}: {key}");
    }
    let twice = format!(r#"{{"keys":[{{{},"k":"AA"}}]}}"#, oct(32));
    assert!(matches!(error(&twice), KeyError::Key { number: 1, .. }));
    for key in [
        format!(r#"{},"use":"enc""#, oct(32)),
        format!(r#"{P256},"key_ops":["sign"]"#),
        format!(r#"{P256},"key_ops":[]"#),
        format!(r#"{P256},"alg":"ECDH-ES""#),
        format!(r#"{},"alg":"none""#, oct(32)),
        format!(r#"{},"alg":"RS512""#, rsa(&[0xff; 256], &[1, 0, 1])),
        r#""kty":"EC","crv":"P-384","x":"AA","y":"AA""#.to_owned(),
        r#""kty":"EC""#.to_owned(),
        r#""kty":"OKP","crv":"X25519","x":"AA""#.to_owned(),
        r#""kty":"AKP","pub":"AA""#.to_owned(),
    ] {
        assert_eq!(error(&format!("{{{key}}}")), KeyError::NoneUsable, "{key}");
        let keys = format!(r#"{{"keys":[{{{key}}},{{{}}}]}}"#, oct(32));
        let keys = Keys::parse(keys.as_bytes()).unwrap();
        assert_eq!((keys.keys.len(), keys.skipped()[0].0), (1, 1), "{key}");
    }
    // A zero in front of a modulus is one that some libraries write.
    let padded = rsa(&[&[0][..], &[0xff; 256]].concat(), &[0, 1, 0, 1]);
    assert_eq!(algorithms(&format!("{{{padded}}}")), [Rs256, Ps256]);
}

#[test]
fn a_set_has_a_largest_number_of_keys() {
    let keys = |count: usize| {
        let keys = vec![format!("{{{}}}", oct(32)); count].join(",");
        Keys::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes())
    };
    assert_eq!(keys(MOST_KEYS).unwrap().keys.len(), MOST_KEYS);
    assert_eq!(keys(MOST_KEYS + 1).err(), Some(KeyError::TooMany));
    assert_eq!(keys(1000).err(), Some(KeyError::TooMany));
}

#[test]
fn a_secret_from_the_documentation_is_known() {
    for example in EXAMPLES {
        let key = format!(
            r#"{{"keys":[{{{P256}}},{{"kty":"oct","k":"{}"}}]}}"#,
            base64(example.as_bytes())
        );
        for text in [example.to_owned(), format!("{example}\n"), key] {
            assert!(Keys::parse(text.as_bytes()).unwrap().has_example(), "{text}");
        }
    }
    let another = format!("{}!", EXAMPLES[0]);
    assert!(!Keys::parse(another.as_bytes()).unwrap().has_example());
}

#[test]
fn keys_are_not_printed() {
    let keys = Keys::parse(&[b'x'; 40]).unwrap();
    assert_eq!(format!("{keys:?}"), "Keys(1, 0 skipped)");
    let wrong = error(r#"{"kty":"oct","k":"c2VjcmV0"}"#);
    assert!(!format!("{wrong:?} {wrong}").contains("c2VjcmV0"));
}

proptest::proptest! {
    #[test]
    fn no_secret_panics(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
        json in r#"\{("(keys|kty|k|x|y|crv|n|e|alg)":("(oct|EC|RSA|OKP|P-256|Ed25519|[A-Za-z0-9_-]{0,50})"|\[\{|\}\]|1|null),?){0,8}\}"#,
    ) {
        let _ = Keys::parse(&bytes);
        let _ = Keys::parse(json.as_bytes());
    }

    #[test]
    fn der_is_read_within_its_bounds(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..8)) {
        let mut der = vec![0x30];
        der.extend(&bytes);
        let _ = is_public(&der);
    }
}
