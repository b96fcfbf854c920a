use super::*;
use proptest::prelude::{ProptestConfig, any};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

pub(super) const NOW: i64 = 1_900_000_000;
const SECRET: &[u8] = b"super-secret-jwt-token-with-at-least-32-characters-long-and-even-more";
pub(super) const GOOD: &str = r#"{"sub":"u-1","role":"authenticated","exp":1900003600}"#;

/// RFC 7515, A.1 to A.3: the same claims, signed by HS256, RS256 and ES256. They end in 2011.
const RFC_PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC_NOW: i64 = 1_300_819_379;
const RFC_HS256: [&str; 3] = [
    r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
];
const RFC_RS256: [&str; 3] = [
    r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
    "eyJhbGciOiJSUzI1NiJ9",
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
];
const RFC_ES256: [&str; 3] = [
    r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
    "eyJhbGciOiJFUzI1NiJ9",
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
];
/// An RSA key of 2048 bits, and what openssl signed with it: by RS256 and by PS256.
const RSA: &str = r#"{"kty":"RSA","e":"AQAB","n":"1Rc5kIvkgx7Ty0awpIH-js3o4tn0_BLzQSpn9R3QnNen8QaqAO0FJtrMFr6YtBk5FCxPX85n1Ei4NVBcYTw_bfBBNMz70gL7kW-cqVRWKPcAuytWe76FLXtJXFqbulEPHQPlIi7Zc1FpF_FiynzFRbEBgSx9A0BlbbWUqIhlCZ8_uNgGyiY3RNw3pJ50cyEATMr2aaP0cDQ_E-ZBiF7yjtoQ0qTSoDQm9BoGrgTcioG85EPiAS9Iyr_6OaO-t0ZHHyMtTmC6J9YZus9uojuzh_NuIJCgL3RY0eJ4LmSdU8EjiSWaqcWBvaU8MFNeTU-eb46HeK2OvyJG7IeqgGz3QQ"}"#;
const RSA_RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1LTEiLCJyb2xlIjoiYXV0aGVudGljYXRlZCIsImV4cCI6MjAwMDAwMDAwMH0.WPtyfYykEavOis-FJYxAyCD0yfWgaW6CTZLdIzTrh2TCfIY_ASd19ftFvomBHjgbq9EeRigTLP6OD9eWXLLc9-AuQMvryYDPDBxayRyO9bbrRfP0kycfs49COVdZTkjwyVmTynsqaFemxZDEcG3J8_3v-Q5lmiRnKtDpQfOzKFAJ9ppYZFDudRZfNdQFAA0DVacN2AsaEvWmEgAQHL6hkSVP2QXWXONZ8aNxNzMaJVlJvpDRnzhAUsA9z9JHM2pwpv_WJdYLE-yajV6YgxUQp0-qeSKdF-4M_hhsjMK28-587Hf_4cr2zLVaa5uz-ySjsSlKkb16lamu-BepKUmJbw";
const RSA_PS256: &str = "eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJ1LTEiLCJyb2xlIjoiYXV0aGVudGljYXRlZCIsImV4cCI6MjAwMDAwMDAwMH0.DWlVeGMQHkTSMCKROI6e-3vbW6-pyNYnOq9wHfl0G0iyze3t7eSCZoOejIwOALGPpMjbpOG3Cap_kvs8QAXnSpKMZTzKpX4LV2AlZ5ErTHhT1UyEYtGvZ7SwCCOvZZDH4i1LacmzpVCWNSi6zp85LHdqvvUZjQvSU7uUl-Yb6UV1khlLwh6oXJglBzAQEq-Nte0sB_dJ6NPllFkVXXl0ZvL0ilg9HGvlJ63qqkcUxmFqkCpyCGJwk4Bq4gAGFA3AElZ089OS-mDrEtHTkR15ayb6j6P1z7oUTSnQhcDlysrg_FOf1XzJ4ECNo7SLFalUL8_O1WMGT_Hhj7GGRBuGbg";

pub(super) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn keys(secret: &str) -> Keys {
    Keys::parse(secret.as_bytes()).unwrap()
}

/// A token of a header and a payload, signed by a shared secret.
pub(super) fn minted_by(
    hash: hmac::Algorithm,
    secret: &[u8],
    header: &str,
    payload: &[u8],
) -> String {
    let message = format!("{}.{}", base64(header), base64(payload));
    let tag = hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes());
    format!("{message}.{}", base64(tag))
}

pub(super) fn minted(payload: &str) -> String {
    minted_by(hmac::HMAC_SHA256, SECRET, r#"{"alg":"HS256"}"#, payload.as_bytes())
}

fn with_header(header: &str) -> String {
    minted_by(hmac::HMAC_SHA256, SECRET, header, GOOD.as_bytes())
}

pub(super) fn plain() -> Keys {
    Keys::parse(SECRET).unwrap()
}

fn read(token: &str) -> Result<Claims, TokenError> {
    verify(&plain(), &Rules::default(), token, NOW)
}

/// What becomes of claims to which these members are added.
fn claims(more: &str) -> Result<Claims, TokenError> {
    read(&minted(&format!(r#"{{"sub":"u-1","role":"authenticated","exp":1900003600,{more}}}"#)))
}

#[test]
fn the_tokens_of_the_rfcs_are_verified() {
    for [key, header, signature] in [RFC_HS256, RFC_RS256, RFC_ES256] {
        let keys = keys(key);
        let check = |token: &str| verify(&keys, &Rules::default(), token, RFC_NOW);
        let token = format!("{header}.{RFC_PAYLOAD}.{signature}");
        // They name no user: the last thing that is asked.
        assert_eq!(check(&token), Err(TokenError::NoSubject), "{header}");
        let later = verify(&keys, &Rules::default(), &token, RFC_NOW + 31);
        assert_eq!(later, Err(TokenError::Expired));
        let other = RFC_PAYLOAD.replacen("eyJpc3MiOiJqb2Ui", "eyJpc3MiOiJqb2Yi", 1);
        let token = format!("{header}.{other}.{signature}");
        assert_eq!(check(&token), Err(TokenError::Signature), "{header}");
        let token = format!("{header}.{RFC_PAYLOAD}.A{}", &signature[1..]);
        assert_eq!(check(&token), Err(TokenError::Signature), "{header}");
        for short in ["", "AA"] {
            let token = format!("{header}.{RFC_PAYLOAD}.{short}");
            assert_eq!(check(&token), Err(TokenError::Signature), "{header}");
        }
    }
    // RFC 8037, A.4, whose payload is no object.
    let key =
        keys(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#);
    let message = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let check = |token: &str| verify(&key, &Rules::default(), token, NOW);
    let payload = TokenError::Json(Part::Payload);
    assert_eq!(check(&format!("{message}.{signature}")), Err(payload));
    let broken = format!("{message}.A{}", &signature[1..]);
    assert_eq!(check(&broken), Err(TokenError::Signature));
}

#[test]
fn every_algorithm_names_its_user() {
    let check = |keys: &Keys, token: &str| verify(keys, &Rules::default(), token, NOW).unwrap();
    let rsa = keys(RSA);
    assert_eq!(check(&rsa, RSA_RS256).user_id, "u-1");
    assert_eq!(check(&rsa, RSA_PS256).user_id, "u-1");
    // One signature is not the other.
    let (message, _) = RSA_PS256.rsplit_once('.').unwrap();
    let (_, signature) = RSA_RS256.rsplit_once('.').unwrap();
    let mixed = verify(&rsa, &Rules::default(), &format!("{message}.{signature}"), NOW);
    assert_eq!(mixed, Err(TokenError::Signature));

    let secret = [7; 64];
    let oct = keys(&format!(r#"{{"kty":"oct","k":"{}"}}"#, base64(secret)));
    for (name, hash) in
        [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        let header = format!(r#"{{"alg":"{name}","typ":"JWT"}}"#);
        let token = minted_by(hash, &secret, &header, GOOD.as_bytes());
        assert_eq!(check(&oct, &token).user_id, "u-1", "{name}");
    }

    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
            .unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let ec = keys(&format!(
        r#"{{"keys":[{{"kid":"k","kty":"EC","crv":"P-256","x":"{}","y":"{}"}}]}}"#,
        base64(x),
        base64(y)
    ));
    let message = format!("{}.{}", base64(r#"{"alg":"ES256","kid":"k"}"#), base64(GOOD));
    let signature = pair.sign(&random, message.as_bytes()).unwrap();
    assert_eq!(check(&ec, &format!("{message}.{}", base64(signature))).user_id, "u-1");

    let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let okp =
        keys(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, base64(pair.public_key())));
    for name in ["EdDSA", "Ed25519"] {
        let message = format!("{}.{}", base64(format!(r#"{{"alg":"{name}"}}"#)), base64(GOOD));
        let token = format!("{message}.{}", base64(pair.sign(message.as_bytes())));
        assert_eq!(check(&okp, &token).user_id, "u-1");
    }
}

#[test]
fn a_public_key_signs_nothing() {
    let jwks = format!(r#"{{"keys":[{RSA},{}]}}"#, RFC_ES256[0]);
    let set = keys(&jwks);
    let point = [
        &[4][..],
        &URL_SAFE_NO_PAD.decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU").unwrap(),
        &URL_SAFE_NO_PAD.decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0").unwrap(),
    ]
    .concat();
    for secret in [jwks.as_bytes(), RSA.as_bytes(), RFC_ES256[0].as_bytes(), &point[..], b""] {
        for (name, hash) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let header = format!(r#"{{"alg":"{name}"}}"#);
            let token = minted_by(hash, secret, &header, GOOD.as_bytes());
            let refused = verify(&set, &Rules::default(), &token, NOW);
            assert_eq!(refused, Err(TokenError::WrongAlgorithm));
        }
        // Nor does it help to name the algorithm of the key.
        for name in ["RS256", "PS256", "ES256"] {
            let header = format!(r#"{{"alg":"{name}"}}"#);
            let token = minted_by(hmac::HMAC_SHA256, secret, &header, GOOD.as_bytes());
            let refused = verify(&set, &Rules::default(), &token, NOW);
            assert_eq!(refused, Err(TokenError::Signature));
        }
    }
    // The signature of all zeros, which some took from everybody (CVE-2022-21449).
    let zeros = format!("{}.{}.{}", base64(r#"{"alg":"ES256"}"#), base64(GOOD), base64([0; 64]));
    assert_eq!(verify(&set, &Rules::default(), &zeros, NOW), Err(TokenError::Signature));
}

#[test]
fn the_header_decides_nothing() {
    assert!(read(&with_header(r#"{"alg":"HS256","typ":"JWT","jku":"https://x.example"}"#)).is_ok());
    assert!(read(&with_header(r#"{"alg":"HS256","kid":null}"#)).is_ok());
    for (header, expected) in [
        (r#"{"alg":"none"}"#, TokenError::Unsigned),
        (r#"{"alg":"NoNe"}"#, TokenError::Unsigned),
        (r#"{"alg":"\u006eone"}"#, TokenError::Unsigned),
        (r#"{"alg":"hs256"}"#, TokenError::Algorithm),
        (r#"{"alg":"RS512"}"#, TokenError::Algorithm),
        (r#"{"alg":""}"#, TokenError::Algorithm),
        (r#"{"alg":["HS256"]}"#, TokenError::Algorithm),
        (r#"{"alg":null}"#, TokenError::NoAlgorithm),
        (r#"{}"#, TokenError::NoAlgorithm),
        // The plain secret is for HS256 alone, and no key for the others is there.
        (r#"{"alg":"HS384"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"RS256"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"ES256"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"EdDSA"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, TokenError::Critical),
        (r#"{"alg":"HS256","crit":[]}"#, TokenError::Critical),
        (r#"{"alg":"HS256","crit":null}"#, TokenError::Critical),
        (r#"{"alg":"HS256","\u0063rit":["b64"],"b64":false}"#, TokenError::Critical),
        (r#"{"alg":"HS256","alg":"none"}"#, TokenError::Twice(Part::Header)),
        (r#"{"alg":"HS256","\u0061lg":"HS256"}"#, TokenError::Twice(Part::Header)),
        (r#"{"alg":"HS256","kid":7}"#, TokenError::KeyId),
        (r#"{"alg":"HS256","kid":"other"}"#, TokenError::UnknownKey),
        (r#"["HS256"]"#, TokenError::Json(Part::Header)),
        ("", TokenError::Json(Part::Header)),
        (r#"{"alg":"HS256"} "x""#, TokenError::Json(Part::Header)),
    ] {
        assert_eq!(read(&with_header(header)), Err(expected), "{header}");
    }
    let unsigned = format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(GOOD));
    assert_eq!(read(&unsigned), Err(TokenError::Unsigned));
    let unsigned = format!("{}.{}.", base64(r#"{"alg":"HS256"}"#), base64(GOOD));
    assert_eq!(read(&unsigned), Err(TokenError::Signature));
}

#[test]
fn a_key_id_must_be_one_of_the_set() {
    let (a, b) = ([1; 32], [2; 32]);
    let set = keys(&format!(
        r#"{{"keys":[{{"kty":"oct","kid":"a","k":"{}"}},{{"kty":"oct","k":"{}"}},{RSA}]}}"#,
        base64(a),
        base64(b)
    ));
    let check = |secret: &[u8], header: &str| {
        let token = minted_by(hmac::HMAC_SHA256, secret, header, GOOD.as_bytes());
        verify(&set, &Rules::default(), &token, NOW).map(|claims| claims.user_id)
    };
    // Without one, every key of that kind is tried.
    assert_eq!(check(&a, r#"{"alg":"HS256"}"#).unwrap(), "u-1");
    assert_eq!(check(&b, r#"{"alg":"HS256"}"#).unwrap(), "u-1");
    assert_eq!(check(&[3; 32], r#"{"alg":"HS256"}"#), Err(TokenError::Signature));
    assert_eq!(check(&a, r#"{"alg":"HS256","kid":"a"}"#).unwrap(), "u-1");
    assert_eq!(check(&b, r#"{"alg":"HS256","kid":"a"}"#), Err(TokenError::Signature));
    assert_eq!(check(&a, r#"{"alg":"RS256","kid":"a"}"#), Err(TokenError::WrongAlgorithm));
    for id in ["", "A", "a ", "b"] {
        let header = format!(r#"{{"alg":"HS256","kid":"{id}"}}"#);
        assert_eq!(check(&b, &header), Err(TokenError::UnknownKey), "{id}");
    }
}

#[test]
fn a_token_has_one_form() {
    let token = minted(GOOD);
    assert!(read(&token).is_ok());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    for (token, expected) in [
        (String::new(), TokenError::Parts),
        (header.to_owned(), TokenError::Parts),
        (message.to_owned(), TokenError::Parts),
        (format!("{token}."), TokenError::Parts),
        (format!(".{token}"), TokenError::Parts),
        (format!("{token}.a.b"), TokenError::Parts),
        ("..".to_owned(), TokenError::Json(Part::Header)),
        (format!("{header}=.{payload}.{signature}"), TokenError::Base64(Part::Header)),
        (format!(" {token}"), TokenError::Base64(Part::Header)),
        (format!("{token}\n"), TokenError::Base64(Part::Signature)),
        (format!("{token}="), TokenError::Base64(Part::Signature)),
        (format!("{message}.{}+", &signature[1..]), TokenError::Base64(Part::Signature)),
    ] {
        assert_eq!(read(&token), Err(expected), "{token}");
    }
    // The last character has two bits more than the signature: with them set it would be the same one.
    let last = signature.chars().last().unwrap();
    let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = digits.find(last).unwrap();
    let other = &digits[place + 1..place + 2];
    let token = format!("{message}.{}{other}", &signature[..signature.len() - 1]);
    assert_eq!(read(&token), Err(TokenError::Base64(Part::Signature)));
    let bad = format!("{}=", base64(GOOD));
    let message = format!("{header}.{bad}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    let signed = format!("{message}.{}", base64(tag));
    assert_eq!(read(&signed), Err(TokenError::Base64(Part::Payload)));

    let long = |len: usize| {
        let token = minted(&format!("{},\"x\":\"{}\"}}", &GOOD[..GOOD.len() - 1], "y".repeat(len)));
        (token.len(), read(&token).map(|claims| claims.user_id))
    };
    let (len, taken) = long(6000);
    assert_eq!((len <= LONGEST, taken), (true, Ok("u-1".to_owned())));
    let (len, refused) = long(6100);
    assert_eq!((len > LONGEST, refused), (true, Err(TokenError::TooLong)));
}

#[test]
fn what_is_said_twice_is_not_believed() {
    for more in [
        r#""sub":"u-2""#,
        r#""\u0073ub":"u-2""#,
        r#""role":"service_role""#,
        r#""exp":1900003600"#,
        r#""ex\u0070":1900003600"#,
        r#""email":"a","email":"a""#,
    ] {
        assert_eq!(claims(more), Err(TokenError::Twice(Part::Payload)), "{more}");
    }
    // Inside of a member, which nobody here reads.
    assert!(claims(r#""app_metadata":{"a":1,"a":2}"#).is_ok());
    let many: String = (0..300).map(|n| format!(",\"{n}\":0")).collect();
    let many = format!("{}{many}}}", &GOOD[..GOOD.len() - 1]);
    assert_eq!(read(&minted(&many)), Err(TokenError::Json(Part::Payload)));
    let bad = [&GOOD.as_bytes()[..GOOD.len() - 1], b",\"x\":\"\xff\"}"].concat();
    let token = minted_by(hmac::HMAC_SHA256, SECRET, r#"{"alg":"HS256"}"#, &bad);
    assert_eq!(read(&token), Err(TokenError::Json(Part::Payload)));
}

#[test]
fn a_token_holds_for_its_time() {
    let at = |exp: &str, more: &str| {
        read(&minted(&format!(r#"{{"sub":"u-1","role":"r","exp":{exp}{more}}}"#)))
            .map(|claims| claims.expires_at)
    };
    assert_eq!(at("1899999971", ""), Ok(NOW - 29));
    assert_eq!(at("1899999971.9", ""), Ok(NOW - 29));
    assert_eq!(at("1.900000001e9", ""), Ok(NOW + 1));
    assert_eq!(at("1899999970", ""), Err(TokenError::Expired));
    assert_eq!(at("1899999970.5", ""), Err(TokenError::Expired));
    assert_eq!(at("0", ""), Err(TokenError::Expired));
    assert_eq!(at("253402300799", ""), Ok(253_402_300_799));
    let good = "1900003600";
    for name in ["nbf", "iat"] {
        let late = if name == "nbf" { TokenError::NotYetValid } else { TokenError::IssuedInFuture };
        for (date, expected) in [
            ("1900000030", Ok(NOW + 3600)),
            ("1900000030.5", Err(late)),
            ("1900000031", Err(late)),
            ("0", Ok(NOW + 3600)),
            ("null", Ok(NOW + 3600)),
        ] {
            assert_eq!(at(good, &format!(r#","{name}":{date}"#)), expected, "{name} {date}");
        }
    }
    for date in [
        r#""1900003600""#,
        "true",
        "[1900003600]",
        "{}",
        "-1",
        "1e400",
        // In milliseconds.
        "1900003600000",
        "253402300800",
        "99999999999999999999999999999999999999",
        r#""Infinity""#,
    ] {
        assert_eq!(at(date, ""), Err(TokenError::Claim("exp")), "{date}");
        assert_eq!(at(good, &format!(r#","nbf":{date}"#)), Err(TokenError::Claim("nbf")), "{date}");
        assert_eq!(at(good, &format!(r#","iat":{date}"#)), Err(TokenError::Claim("iat")), "{date}");
    }
    for payload in [r#"{"sub":"u-1","role":"r"}"#, r#"{"sub":"u-1","role":"r","exp":null}"#] {
        assert_eq!(read(&minted(payload)), Err(TokenError::NoExpiry));
    }
    let at_the_end_of_time = |now| verify(&plain(), &Rules::default(), &minted(GOOD), now);
    assert_eq!(at_the_end_of_time(i64::MAX), Err(TokenError::Expired));
    assert!(at_the_end_of_time(i64::MIN).is_ok());
}

#[test]
fn the_user_is_whom_sql_would_see() {
    let check = |sub: &str| {
        let payload = format!(r#"{{"sub":{sub},"role":"authenticated","exp":1900003600}}"#);
        let by_sql = identity::user_id(identity::Caller {
            jwt_claims: Some(&payload),
            is_authenticator: true,
            outer_role: "authenticated",
            ..Default::default()
        });
        let by_token = read(&minted(&payload));
        assert_eq!(by_token.as_ref().ok().map(|claims| &claims.user_id), by_sql.as_ref(), "{sub}");
        by_token.map(|claims| claims.user_id)
    };
    for (sub, id) in [
        (r#""0b8e3c1e-7f0a-4d4c-9d6c-6a0f7e1c2d3b""#, "0b8e3c1e-7f0a-4d4c-9d6c-6a0f7e1c2d3b"),
        ("17", "17"),
        (r#""\u0075-1""#, "u-1"),
        (r#""ключ|a b""#, "ключ|a b"),
    ] {
        assert_eq!(check(sub).unwrap(), id);
    }
    for sub in [r#""""#, r#""role:postgres""#, r#""u-1\u200b""#, "1.5", "true", "[]", "{}"] {
        assert_eq!(check(sub), Err(TokenError::Claim("sub")), "{sub}");
    }
    assert_eq!(check(r#""\ud800""#), Err(TokenError::Claim("sub")));
    assert_eq!(check(&format!("\"{}\"", "x".repeat(256))), Err(TokenError::Claim("sub")));
    assert_eq!(check("null"), Err(TokenError::NoSubject));
    let without = |role: &str| read(&minted(&format!(r#"{{"exp":1900003600{role}}}"#)));
    for role in PROJECT_ROLES {
        let refused = without(&format!(r#","role":"{role}""#)).unwrap_err();
        assert_eq!(refused, TokenError::ProjectKey(role));
        assert!(refused.to_string().contains(role));
    }
    assert_eq!(without(r#","role":"authenticated""#), Err(TokenError::NoSubject));
    assert_eq!(without(""), Err(TokenError::NoSubject));
}

#[test]
fn the_role_is_named_as_postgresql_names_it() {
    let check = |role: &str| {
        read(&minted(&format!(r#"{{"sub":"u-1","exp":1900003600{role}}}"#)))
            .map(|claims| claims.role)
    };
    assert_eq!(check(r#","role":"My role""#).unwrap(), "My role");
    assert_eq!(check(&format!(r#","role":"{}""#, "r".repeat(63))).unwrap().len(), 63);
    assert_eq!(check(""), Err(TokenError::NoRole));
    assert_eq!(check(r#","role":null"#), Err(TokenError::NoRole));
    let long = format!("\"{}\"", "r".repeat(64));
    for role in [r#""""#, "1", "[\"authenticated\"]", "true", r#""a\u0000b""#, &long] {
        assert_eq!(check(&format!(r#","role":{role}"#)), Err(TokenError::Claim("role")), "{role}");
    }
}

#[test]
fn who_is_anonymous_says_so() {
    assert!(!claims(r#""x":1"#).unwrap().is_anonymous);
    assert!(!claims(r#""is_anonymous":null"#).unwrap().is_anonymous);
    assert!(!claims(r#""is_anonymous":false"#).unwrap().is_anonymous);
    assert!(claims(r#""is_anonymous": true "#).unwrap().is_anonymous);
    for value in [r#""true""#, "1", "0", "[]"] {
        let refused = claims(&format!(r#""is_anonymous":{value}"#));
        assert_eq!(refused, Err(TokenError::Claim("is_anonymous")), "{value}");
    }
}

#[test]
fn audience_and_issuer_are_asked_for_if_they_are_configured() {
    let rules = Rules { audience: Some("authenticated".into()), issuer: Some("https://i".into()) };
    let check = |aud: &str, iss: &str| {
        let payload = format!("{}{aud}{iss}}}", &GOOD[..GOOD.len() - 1]);
        verify(&plain(), &rules, &minted(&payload), NOW).map(drop)
    };
    let (aud, iss) = (r#","aud":"authenticated""#, r#","iss":"https://i""#);
    assert_eq!(check(aud, iss), Ok(()));
    assert_eq!(check(r#","aud":["a","authenticated"]"#, iss), Ok(()));
    for other in ["", r#","aud":null"#, r#","aud":[]"#, r#","aud":"a""#, r#","aud":["a"]"#] {
        assert_eq!(check(other, iss), Err(TokenError::Audience), "{other}");
        // Nobody asks for it.
        assert!(read(&minted(&format!("{}{other}}}", &GOOD[..GOOD.len() - 1]))).is_ok());
    }
    for wrong in [r#","aud":1"#, r#","aud":{"authenticated":1}"#, r#","aud":["authenticated",1]"#] {
        assert_eq!(check(wrong, iss), Err(TokenError::Claim("aud")), "{wrong}");
        let payload = format!("{}{wrong}}}", &GOOD[..GOOD.len() - 1]);
        assert_eq!(read(&minted(&payload)), Err(TokenError::Claim("aud")), "{wrong}");
    }
    for other in ["", r#","iss":null"#, r#","iss":"https://i/""#] {
        assert_eq!(check(aud, other), Err(TokenError::Issuer), "{other}");
    }
    assert_eq!(check(aud, r#","iss":["https://i"]"#), Err(TokenError::Claim("iss")));
}

#[test]
fn every_refusal_fits_into_a_header() {
    let parts = [Part::Header, Part::Payload, Part::Signature];
    let mut all: Vec<TokenError> = vec![
        TokenError::TooLong,
        TokenError::Parts,
        TokenError::NoAlgorithm,
        TokenError::Unsigned,
        TokenError::Algorithm,
        TokenError::Critical,
        TokenError::KeyId,
        TokenError::UnknownKey,
        TokenError::WrongAlgorithm,
        TokenError::Signature,
        TokenError::NoExpiry,
        TokenError::Expired,
        TokenError::NotYetValid,
        TokenError::IssuedInFuture,
        TokenError::Audience,
        TokenError::Issuer,
        TokenError::NoSubject,
        TokenError::NoRole,
    ];
    all.extend(parts.map(TokenError::Base64));
    all.extend(parts.map(TokenError::Json));
    all.extend(parts.map(TokenError::Twice));
    all.extend(["sub", "role", "exp", "is_anonymous"].map(TokenError::Claim));
    all.extend(PROJECT_ROLES.map(TokenError::ProjectKey));
    for refusal in all {
        // RFC 6750, 3: what an error_description may be made of.
        let text = refusal.to_string();
        let fits = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        assert!(text.bytes().all(fits), "{text}");
        assert!(text.split(": ").next().is_some_and(|words| words.len() <= 100), "{text}");
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_token_panics_and_none_passes_unsigned(
        text in "\\PC{0,60}",
        parts in "[A-Za-z0-9_.=-]{0,120}",
        header in r#"\{("(alg|kid|crit|typ)":("(HS256|RS256|ES256|EdDSA|none|x)"|null|\[\]|1),?){0,3}\}?"#,
        payload in r#"\{("(sub|role|exp|nbf|aud)":("[a-z]{0,4}"|null|[0-9]{1,12}|\[\]|1e9),?){0,5}\}?"#,
    ) {
        for token in [text, parts, format!("{}.{}.AAAA", base64(&header), base64(&payload))] {
            proptest::prop_assert!(read(&token).is_err());
        }
    }

    #[test]
    fn claims_are_read_or_refused(
        sub in r#"("[a-z:.é\\u0-9]{0,8}"|[0-9.e-]{1,8}|null|true)"#,
        role in r#"("[a-z]{0,4}"|null|1)"#,
        exp in r#"(19[0-9]{8}|[0-9.e-]{1,12}|"1"|null)"#,
    ) {
        let payload = format!(r#"{{"sub":{sub},"role":{role},"exp":{exp}}}"#);
        if let Ok(claims) = read(&minted(&payload)) {
            proptest::prop_assert!(identity::checked_id(&claims.user_id).is_ok());
            proptest::prop_assert!(!claims.role.is_empty() && claims.expires_at > NOW - LEEWAY);
        }
    }

    #[test]
    fn a_token_that_is_changed_anywhere_is_refused(place in any::<usize>(), bit in 0..7u8) {
        let token = minted(GOOD);
        let mut bytes = token.clone().into_bytes();
        let place = place % bytes.len();
        bytes[place] ^= 1 << bit;
        let changed = String::from_utf8(bytes).unwrap();
        proptest::prop_assert!(read(&changed).is_err(), "{changed}");
    }
}
