"""Access tokens that don't count, and why: forged ones, broken ones, and those made for others."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from chassis.testing import TokenIssuer
from chassis.testing.issuer import SigningKey

# In each token, and so in no log.
SUBJECT = "5ubject-of-a-t0ken"
MARK = "m4rk-of-a-t0ken"
EVIL = "http://127.0.0.1:9/keys"
STRANGER = SigningKey()


@dataclass(frozen=True)
class Forged:
    """A token, and the part of the reason that names what is wrong with it."""

    make: Callable[[TokenIssuer], str]
    reason: str


def with_claims(reason: str, **claims: Any) -> Forged:
    """Return a token of the issuer with other claims, or without those that are None."""
    return Forged(lambda issuer: issuer.token(SUBJECT, mark=MARK, **claims), reason)


def with_headers(reason: str, by: SigningKey | None = None, **headers: Any) -> Forged:
    """Return a token with other headers, signed by the issuer, or by another key in its name."""

    def make(issuer: TokenIssuer) -> str:
        named = {"typ": "at+jwt", "alg": "ES256", "kid": issuer.key.id, "mark": MARK} | headers
        return sign(by or issuer.key, {k: v for k, v in named.items() if v is not None}, issuer)

    return Forged(make, reason)


def with_payload(reason: str, payload: bytes) -> Forged:
    """Return a token of the issuer that says something else than claims."""
    return Forged(lambda issuer: sign(issuer.key, {}, issuer, payload), reason)


def with_header_text(reason: str, header: bytes) -> Forged:
    """Return a token whose header is this text."""
    return Forged(lambda issuer: sign(issuer.key, {}, issuer, header=header), reason)


def changed(reason: str, change: Callable[[str, str, str], str]) -> Forged:
    """Return a token of the issuer whose three parts were changed afterwards."""
    return Forged(lambda issuer: change(*issuer.token(SUBJECT, mark=MARK).split(".")), reason)


def written(reason: str, text: str) -> Forged:
    return Forged(lambda _: text, reason)


def sign(
    key: SigningKey,
    headers: Mapping[str, Any],
    issuer: TokenIssuer,
    payload: bytes | None = None,
    header: bytes | None = None,
) -> str:
    """Sign whatever it is, as no library would."""
    if header is None:
        header = json.dumps({"alg": "ES256", "kid": issuer.key.id} | dict(headers)).encode()
    parts = encode(header) + b"." + encode(claims_of(issuer) if payload is None else payload)
    signature = ECAlgorithm(ECAlgorithm.SHA256).sign(parts, key.private)
    return (parts + b"." + encode(signature)).decode()


def claims_of(issuer: TokenIssuer) -> bytes:
    claims = {"iss": issuer.url, "aud": "service-under-test", "exp": time.time() + 300}
    return json.dumps(claims | {"sub": SUBJECT, "mark": MARK}).encode()


def encode(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def sign_with_public_key(issuer: TokenIssuer) -> str:
    """Return what counts for those who take the algorithm from the token."""
    public = issuer.key.private.public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": "at+jwt", "kid": issuer.key.id}
    parts = encode(json.dumps(header).encode()) + b"." + encode(claims_of(issuer))
    return (parts + b"." + encode(hmac.new(secret, parts, sha256).digest())).decode()


def sign_on_another_curve(curve: ec.EllipticCurve, algorithm: str) -> Forged:
    stranger = SigningKey()
    stranger.private = ec.generate_private_key(curve)

    def make(issuer: TokenIssuer) -> str:
        header = json.dumps({"alg": algorithm, "kid": issuer.key.id}).encode()
        parts = encode(header) + b"." + encode(claims_of(issuer))
        signature = stranger.private.sign(parts, ec.ECDSA(SHA256()))
        return (parts + b"." + encode(signature)).decode()

    return Forged(make, "signature")


def join(*parts: str) -> str:
    return ".".join(parts)


NOW = int(time.time())
ALGORITHM, NO_JWT, KEY, PARTS = (
    "the algorithm of its signature",
    "it is no signed JWT",
    "a key that the issuer does not have",
    "its parts are not",
)
SIGNATURE, HEADER = "its signature is wrong", "its header is no JSON object"
FORGED: dict[str, Forged] = {
    # The algorithm
    "alg none": changed(NO_JWT, lambda h, p, s: join("eyJhbGciOiJub25lIn0", p, "")),
    "alg none with a signature": with_headers(f"{ALGORITHM} (none)", alg="none"),
    "alg nOnE": with_headers(ALGORITHM, alg="nOnE"),
    "HS256 with the public key": Forged(sign_with_public_key, f"{ALGORITHM} (HS256)"),
    "PS256, which is not allowed": with_headers(f"{ALGORITHM} (PS256)", alg="PS256"),
    "RS256 with a key for ES256": with_headers(KEY, alg="RS256"),
    "no alg": with_header_text(ALGORITHM, b"{}"),
    "alg as a list": with_headers(ALGORITHM, alg=["ES256"]),
    "alg of another text": with_headers(ALGORITHM, alg=MARK),
    "wrong curve": sign_on_another_curve(ec.SECP384R1(), "ES256"),
    "wrong curve of coins": sign_on_another_curve(ec.SECP256K1(), "ES256"),
    "wrong curve that it names": sign_on_another_curve(ec.SECP384R1(), "ES384"),
    # The signature
    "another's key": with_headers(SIGNATURE, by=STRANGER),
    "no signature": changed(NO_JWT, lambda h, p, s: join(h, p, "")),
    "zeros": changed(SIGNATURE, lambda h, p, s: join(h, p, "A" * 86)),
    "ones": changed("", lambda h, p, s: join(h, p, "_" * 86)),
    "half a signature": changed("", lambda h, p, s: join(h, p, s[:43])),
    "a signature of another token": changed(
        SIGNATURE, lambda h, p, s: join(h, encode(b'{"sub":"root"}').decode(), s)
    ),
    # What the header points at
    "jku": with_headers(KEY, by=STRANGER, jku=EVIL, kid=STRANGER.id),
    "jku and the issuer's key id": with_headers(SIGNATURE, by=STRANGER, jku=EVIL),
    "x5u": with_headers(SIGNATURE, by=STRANGER, x5u=EVIL),
    "jwk": with_headers(SIGNATURE, by=STRANGER, jwk=STRANGER.jwk),
    "x5c": with_headers(SIGNATURE, by=STRANGER, x5c=["MIIB"]),
    "kid with a path": with_headers(KEY, kid="../../../../dev/null"),
    "kid with SQL": with_headers(KEY, kid="' UNION SELECT 'secret' --"),
    "kid with a URL": with_headers(KEY, kid=EVIL),
    "kid as a number": with_headers("its key id (kid) is no text", kid=7),
    "kid as an object": with_headers("its key id (kid) is no text", kid={"$ne": None}),
    "an empty kid": with_headers(KEY, kid=""),
    # The header
    "a member twice": with_header_text(HEADER, b'{"alg":"none","alg":"ES256"}'),
    "crit": with_headers("extensions (crit)", crit=["exp"], exp=NOW + 300),
    "crit b64": with_headers("extensions (crit)", crit=["b64"], b64=False),
    "b64 without crit": with_headers(PARTS, b64=False),
    "an empty crit": with_headers("extensions (crit)", crit=[]),
    "a logout token": with_headers("its type (typ)", typ="logout+jwt"),
    "typ as a list": with_headers("its type (typ)", typ=["at+jwt"]),
    "header as a list": with_header_text(HEADER, b"[1]"),
    "header as null": with_header_text(HEADER, b"null"),
    "header that is deep": with_header_text(HEADER, b"[" * 9_000),
    "header with a long number": with_header_text(HEADER, b'{"alg":' + b"9" * 9_000 + b"}"),
    "header of other bytes": with_header_text(HEADER, b"\xff\xfe\x00"),
    "header of no base64": changed(HEADER, lambda h, p, s: join(h + "A", p, s)),
    # The claims
    "another issuer": with_claims("its issuer (iss) is not", iss="https://evil.example.com"),
    "an issuer with a slash": Forged(
        lambda issuer: issuer.token(SUBJECT, iss=issuer.url + "/"),
        "APP_AUTH_ISSUER (the difference is the slash at the end)",
    ),
    "no issuer": with_claims("it has no iss", iss=None),
    "issuer as a list": Forged(
        lambda issuer: sign(
            issuer.key, {}, issuer, claims_of(issuer).replace(b'"iss": ', b'"iss": [0], "x": ')
        ),
        "",
    ),
    "another audience": with_claims("its audience (aud)", aud="another-service"),
    "audiences without ours": with_claims("its audience (aud)", aud=["a", "b"]),
    "a longer audience": with_claims("its audience (aud)", aud="service-under-test-too"),
    "audience as an object": with_claims("its audience (aud)", aud={"service-under-test": 1}),
    "audiences that are no texts": with_claims("its audience (aud)", aud=[7, None]),
    "no audience": with_claims("it has no aud", aud=None),
    "no audiences": with_claims("it has no aud", aud=[]),
    "expired": with_claims("it has expired", exp=NOW - 3600),
    "no exp": with_claims("it has no exp", exp=None),
    "exp as text": with_claims("exp is no number", exp=str(NOW + 3600)),
    "exp as another text": with_claims(PARTS, exp="tomorrow"),
    "exp as a list": with_claims(PARTS, exp=[NOW + 3600]),
    "exp as true": with_claims("", exp=True),
    "exp that is infinite": with_claims(PARTS, exp=float("inf")),
    "exp that is no number": with_claims(PARTS, exp=float("nan")),
    "nbf in the future": with_claims("it is not valid yet", nbf=NOW + 3600),
    "nbf as text": with_claims(PARTS, nbf="now"),
    "iat in the future": with_claims("it is not valid yet", iat=NOW + 3600),
    "iat as a list": with_claims(PARTS, iat=[]),
    "jti as a number": with_claims(PARTS, jti=7),
    "no subject": with_payload("it has no", b"{}"),
    "an empty subject": Forged(lambda issuer: issuer.token("", mark=MARK), "subject (sub) is em"),
    # The payload
    "payload as a list": with_payload(PARTS, b"[]"),
    "payload of no JSON": with_payload(PARTS, b"{'sub': 'x'}"),
    "payload that is deep": with_payload(PARTS, b"[" * 9_000),
    "payload of other bytes": with_payload(PARTS, b"\x00\xff\xfe"),
    "payload with a long number": with_payload(PARTS, b'{"exp":' + b"9" * 9_000 + b"}"),
    "an empty payload": changed(NO_JWT, lambda h, p, s: join(h, "", s)),
    # No token at all
    "cut off in the signature": changed("", lambda h, p, s: join(h, p, s[:-7])),
    "cut off in the payload": changed(NO_JWT, lambda h, p, s: join(h, p[:20])),
    "a part more": changed(NO_JWT, lambda h, p, s: join(h, p, s, s)),
    "an encrypted one": written(NO_JWT, "eyJhbGciOiJkaXIifQ..aXY.Y2lwaGVy.dGFn"),
    "an opaque one": written(NO_JWT, "ya29.a0AfH6SMBx7vlongopaquetoken"),
    "padded": changed(NO_JWT, lambda h, p, s: join(h, p, s + "==")),
    "with a line break": changed(NO_JWT, lambda h, p, s: join(h, p, s + "\n")),
    "letters that are none of base64url": changed(NO_JWT, lambda h, p, s: join(h, p, s + "+/")),
    "letters of other alphabets": changed(NO_JWT, lambda h, p, s: join(h, p, s + "é")),
    "nothing": written(NO_JWT, ""),
    "dots": written(NO_JWT, ".."),
    "oversized": with_claims("more than 16384 characters", padding="x" * 20_000),
}
