//! Whom a connection trusts: the host's authorities, those the user gave, and a server's own certificate when the user gave that.
//!
//! In: the certificates of `ca.crt` files. Out: a verifier. A chain to an authority is judged by webpki. What webpki never
//! takes is a server that shows a certificate which is itself given as the authority and marked as one (`openssl req -x509`
//! makes such); docker, curl and podman take it, and so does this: byte for byte the given certificate, of this name, within
//! its time, and for servers. Nothing that chains to it becomes good by that.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;

/// Judges servers by authorities, and by their own certificate where that is among those given.
#[derive(Debug)]
pub(super) struct Verifier {
    chains: rustls_platform_verifier::Verifier,
    given: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Trusts `given` beside the host's authorities.
    pub(super) fn new(given: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        // webpki asks no authority whether it is one, so that is asked here.
        let authorities: Vec<_> = given.iter().filter(|one| is_authority(one)).cloned().collect();
        let judge = rustls_platform_verifier::Verifier::new_with_extra_roots;
        // On a host without authorities of its own webpki wants at least one.
        let chains = judge(authorities, Arc::clone(&provider)).or_else(|_| judge(given.clone(), provider))?;
        Ok(Self { chains, given })
    }
}

/// Whether others may chain to this certificate. Before version 3 certificates could not say so.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return true };
    parsed.is_ca() || parsed.version() != x509_parser::x509::X509Version::V3
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(refused) = judged else { return judged };
        if !self.given.iter().any(|given| given.as_ref() == end_entity.as_ref()) {
            return Err(refused);
        }
        in_its_time_and_for_servers(end_entity, now)?;
        rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// What a chain would have been asked about its first certificate besides its name.
fn in_its_time_and_for_servers(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let bad = |error| Err(Error::InvalidCertificate(error));
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return bad(CertificateError::BadEncoding);
    };
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < parsed.validity().not_before.timestamp() {
        return bad(CertificateError::NotValidYet);
    }
    if seconds > parsed.validity().not_after.timestamp() {
        return bad(CertificateError::Expired);
    }
    match parsed.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.server_auth || usage.value.any => Ok(()),
        Ok(Some(_)) => bad(CertificateError::InvalidPurpose),
        Err(_) => bad(CertificateError::BadEncoding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    use std::time::Duration;

    const NAME: &str = "registry.test";

    fn make(change: impl Fn(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// Seconds since 1970 of 2026-01-01, and of 2035-01-01.
    const WITHIN: u64 = 1_767_225_600;
    const AFTER: u64 = 2_051_222_400;

    fn judge(given: &CertificateDer<'static>, shown: &CertificateDer<'static>, name: &str, at: u64) -> bool {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(vec![given.clone()], provider).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at));
        verifier.verify_server_cert(shown, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn a_servers_own_certificate_given_as_the_authority_is_taken_marked_as_one_or_not() {
        for ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::ExplicitNoCa, IsCa::NoCa] {
            let own = make(|params| params.is_ca = ca.clone());
            assert!(judge(&own, &own, NAME, WITHIN), "{ca:?}");
            assert!(!judge(&own, &own, "other.test", WITHIN), "{ca:?}: another name");
            assert!(!judge(&own, &own, NAME, AFTER), "{ca:?}: expired");
            assert!(!judge(&own, &own, NAME, 0), "{ca:?}: not valid yet");
            let stranger = make(|params| params.is_ca = ca.clone());
            assert!(!judge(&own, &stranger, NAME, WITHIN), "{ca:?}: another certificate of that name");
        }
    }

    #[test]
    fn a_certificate_that_is_not_for_servers_is_refused() {
        let own = make(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        assert!(!judge(&own, &own, NAME, WITHIN));
    }

    #[test]
    fn nothing_that_a_servers_own_certificate_signed_becomes_good() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let own = params.self_signed(&key).unwrap();
        let child = CertificateParams::new(vec!["victim.test".to_owned()]).unwrap();
        let child = child.signed_by(&KeyPair::generate().unwrap(), &own, &key).unwrap();
        assert!(!judge(own.der(), child.der(), "victim.test", WITHIN));
        // One that is an authority may sign for others.
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        let child = CertificateParams::new(vec!["victim.test".to_owned()]).unwrap();
        let child = child.signed_by(&KeyPair::generate().unwrap(), &own, &key).unwrap();
        assert!(judge(own.der(), child.der(), "victim.test", WITHIN));
    }
}
