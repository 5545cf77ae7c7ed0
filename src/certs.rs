//! A certificate authority and certificates for trials and tests. A fleet in production brings its own.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::model::Role;

/// Common name of the authority, by which one of ours is known again.
const CA_NAME: &str = "Tidegate trial CA";
const DAY: Duration = Duration::from_secs(86_400);

/// Why no certificates were written.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A name that could leave the folder or the SPIFFE path.
    #[error("{0:?} is no name for a certificate: use lower-case letters, digits, '-' and '.'")]
    Name(String),
    /// `ca.crt` and `ca.key` are not a pair that this module wrote.
    #[error("{}: {why}; move ca.crt and ca.key away to start a new authority", dir.display())]
    Authority {
        /// Where they are.
        dir: PathBuf,
        /// What is wrong with them.
        why: &'static str,
    },
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("{0}")]
    Make(#[from] rcgen::Error),
}

/// Writes certificates for a trial below `dir`, all signed by `ca.crt` there (made once, then used again), valid for a
/// year: ECDSA P-256, for clients and servers alike.
///
/// Each identity has a folder named as the path of its SPIFFE id (`spiffe://<trust domain>/edge/<site>`,
/// `/core/<site>`, `/grpc/<site>`, `/operator/<name>`, `/control-plane/<name>`) that holds `tls.crt`, `tls.key` (mode 0600) and
/// `ca.crt`. A control plane's certificate also bears the given DNS names and IP addresses. A site's folder is the
/// working directory of its Envoys: its `identity/identity.yaml` and `identity/trust.yaml` are what compiled TLS
/// contexts name for file SDS. When it runs again, running Envoys take the new certificates (one that reads between
/// the two renames keeps the old pair until the second). Returns the folders.
pub fn dev_certs(
    dir: &Path,
    trust_domain: &str,
    sites: &[(Role, String)],
    operators: &[String],
    control_planes: &[(String, Vec<String>)],
) -> Result<Vec<PathBuf>, CertError> {
    let none: &[String] = &[];
    let identities = (sites.iter().map(|(role, site)| (role.as_str(), site.as_str(), none)))
        .chain(operators.iter().map(|name| ("operator", name.as_str(), none)))
        .chain(control_planes.iter().map(|(name, sans)| ("control-plane", name.as_str(), sans.as_slice())));
    write_identities(dir, trust_domain, &identities.collect::<Vec<_>>())
}

/// As [`dev_certs`], for members of etcd: `spiffe://<trust domain>/etcd/<name>`, an identity that Tidegate itself lets
/// do nothing. Returns the folders.
pub fn etcd_certs(
    dir: &Path,
    trust_domain: &str,
    members: &[(String, Vec<String>)],
) -> Result<Vec<PathBuf>, CertError> {
    let identities = members.iter().map(|(name, sans)| ("etcd", name.as_str(), sans.as_slice()));
    write_identities(dir, trust_domain, &identities.collect::<Vec<_>>())
}

/// (kind, name, names on the wire) → a folder each.
fn write_identities(
    dir: &Path,
    trust_domain: &str,
    identities: &[(&str, &str, &[String])],
) -> Result<Vec<PathBuf>, CertError> {
    check_name(trust_domain)?;
    for (_, name, _) in identities {
        check_name(name)?;
    }
    make_dir(dir)?;
    let (ca, issuer) = authority(dir)?;
    let mut folders = Vec::new();
    for (kind, name, sans) in identities {
        let folder = dir.join(kind).join(name);
        make_dir(&folder)?;
        let mut params = leaf(sans)?;
        params.subject_alt_names.push(SanType::URI(format!("spiffe://{trust_domain}/{kind}/{name}").try_into()?));
        params.distinguished_name.push(DnType::CommonName, format!("{kind} {name}"));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        write(&folder.join("tls.key"), &key.serialize_pem(), 0o600)?;
        write(&folder.join("tls.crt"), &certificate.pem(), 0o644)?;
        write(&folder.join("ca.crt"), &ca, 0o644)?;
        if matches!(Role::parse(kind), Some(Role::Edge | Role::Core)) {
            let identity = folder.join("identity");
            make_dir(&identity)?;
            write(&identity.join("identity.yaml"), IDENTITY, 0o644)?;
            write(&identity.join("trust.yaml"), TRUST, 0o644)?;
        }
        folders.push(folder);
    }
    Ok(folders)
}

/// A self-signed server certificate for `hostnames` (DNS names or IP addresses) and its key, both PEM: for tests of
/// HTTPS.
pub fn server_certificate(hostnames: &[String]) -> Result<(String, String), CertError> {
    let mut params = leaf(hostnames)?;
    params.distinguished_name.push(DnType::CommonName, hostnames.first().map_or("server", String::as_str));
    params.use_authority_key_identifier_extension = false;
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Envoy resolves the paths against its working directory, and needs a directory part in them to watch.
const IDENTITY: &str = r#"# The proxy's own certificate, by file SDS. Envoy reads it again when this file is replaced by a rename.
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: identity
  tls_certificate:
    certificate_chain: {filename: ./tls.crt}
    private_key: {filename: ./tls.key}
    watched_directory: {path: ./}
"#;
const TRUST: &str = r#"# Whom the proxy trusts on the backbone, by file SDS. Envoy reads it again when this file is replaced by a rename.
resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: trust
  validation_context:
    trusted_ca: {filename: ./ca.crt}
    watched_directory: {path: ./}
"#;

fn check_name(name: &str) -> Result<(), CertError> {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    match !name.is_empty() && !name.starts_with('.') && name.bytes().all(fits) {
        true => Ok(()),
        false => Err(CertError::Name(name.to_owned())),
    }
}

/// The authority's certificate and what signs with its key: those in `dir`, or new ones.
fn authority(dir: &Path) -> Result<(String, Issuer<'static, KeyPair>), CertError> {
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let refuse = |why| CertError::Authority { dir: dir.to_owned(), why };
    let params = ca_params()?;
    match (read(&certificate)?, read(&key)?) {
        (Some(certificate), Some(key)) => {
            let key = KeyPair::from_pem(&key).map_err(|_| refuse("ca.key is no private key"))?;
            let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
                .map_err(|_| refuse("ca.crt is no certificate"))?;
            let parsed = pem.parse_x509().map_err(|_| refuse("ca.crt is no certificate"))?;
            let name = parsed.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
            if name != Some(CA_NAME) || parsed.public_key().subject_public_key.data != key.public_key_raw() {
                return Err(refuse("ca.crt and ca.key are not a pair of a trial authority"));
            }
            Ok((certificate, Issuer::new(params, key)))
        }
        (None, None) => {
            let signer = KeyPair::generate()?;
            let pem = params.self_signed(&signer)?.pem();
            write(&key, &signer.serialize_pem(), 0o600)?;
            write(&certificate, &pem, 0o644)?;
            Ok((pem, Issuer::new(params, signer)))
        }
        _ => Err(refuse("only one of ca.crt and ca.key is there")),
    }
}

fn ca_params() -> Result<CertificateParams, CertError> {
    let mut params = valid_for(CertificateParams::new(Vec::new())?, 10 * 365 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    Ok(params)
}

fn leaf(sans: &[String]) -> Result<CertificateParams, CertError> {
    let mut params = valid_for(CertificateParams::new(sans)?, 365 * DAY);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}

/// From a day ago, for clocks that are behind.
fn valid_for(mut params: CertificateParams, time: Duration) -> CertificateParams {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + time).into();
    params
}

fn make_dir(path: &Path) -> Result<(), CertError> {
    fs::create_dir_all(path).map_err(|error| CertError::File { path: path.to_owned(), error })
}

fn read(path: &Path) -> Result<Option<String>, CertError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CertError::File { path: path.to_owned(), error }),
    }
}

/// By temporary file and rename, so that nobody reads half a file and Envoy notices; never readable by others before
/// its mode is set.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let temporary = path.with_extension("new");
    let attempt = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|error| CertError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

    use super::*;

    fn trial(dir: &Path) -> Result<Vec<PathBuf>, CertError> {
        let sites = [(Role::Edge, "lon".to_owned()), (Role::Core, "fra".to_owned())];
        let planes = [("a".to_owned(), vec!["localhost".to_owned(), "127.0.0.1".to_owned()])];
        dev_certs(dir, "tidegate.local", &sites, &["ann".to_owned()], &planes)
    }

    fn der(path: &Path) -> Vec<u8> {
        x509_parser::pem::parse_x509_pem(&fs::read(path).unwrap()).unwrap().1.contents
    }

    fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let name = |n: &GeneralName<'_>| match n {
            GeneralName::DNSName(n) | GeneralName::URI(n) => (*n).to_owned(),
            GeneralName::IPAddress(ip) => format!("{ip:?}"),
            other => format!("{other:?}"),
        };
        names.value.general_names.iter().map(name).collect()
    }

    #[test]
    fn each_identity_has_a_certificate_of_the_authority_with_its_spiffe_id() {
        let dir = tempfile::tempdir().unwrap();
        let folders = trial(dir.path()).unwrap();
        assert_eq!(folders.len(), 4);
        let ca = der(&dir.path().join("ca.crt"));
        let (_, ca) = X509Certificate::from_der(&ca).unwrap();
        for folder in &folders {
            let leaf = der(&folder.join("tls.crt"));
            let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
            let path = folder.strip_prefix(dir.path()).unwrap().display();
            let names = names(&leaf);
            assert!(names.contains(&format!("spiffe://tidegate.local/{path}")), "{names:?}");
            assert_eq!(leaf.issuer(), ca.subject());
            assert_eq!(fs::metadata(folder.join("tls.key")).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read(folder.join("ca.crt")).unwrap(), fs::read(dir.path().join("ca.crt")).unwrap());
            assert_eq!(folder.join("identity/trust.yaml").exists(), Role::parse(&path.to_string()[..4]).is_some());
            if folder.ends_with("control-plane/a") {
                assert_eq!(names.len(), 3, "{names:?}");
            }
        }
    }

    #[test]
    fn a_member_of_etcd_is_of_the_same_authority_and_neither_proxy_nor_control_plane() {
        let dir = tempfile::tempdir().unwrap();
        trial(dir.path()).unwrap();
        let folders = etcd_certs(dir.path(), "tidegate.local", &[("e1".to_owned(), vec!["e1".to_owned()])]).unwrap();
        assert_eq!(folders, [dir.path().join("etcd/e1")]);
        let leaf = der(&folders[0].join("tls.crt"));
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        assert_eq!(names(&leaf), ["e1", "spiffe://tidegate.local/etcd/e1"]);
        assert!(!folders[0].join("identity").exists());
        assert_eq!(fs::read(folders[0].join("ca.crt")).unwrap(), fs::read(dir.path().join("ca.crt")).unwrap());
    }

    #[test]
    fn rustls_accepts_the_chain_also_after_the_authority_was_used_again() {
        let dir = tempfile::tempdir().unwrap();
        trial(dir.path()).unwrap();
        let ca = der(&dir.path().join("ca.crt"));
        trial(dir.path()).unwrap();
        assert_eq!(der(&dir.path().join("ca.crt")), ca, "the authority is made once");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.into()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(std::sync::Arc::new(roots), provider)
                .build()
                .unwrap();
        let leaf = der(&dir.path().join("control-plane/a/tls.crt")).into();
        let now = rustls::pki_types::UnixTime::now();
        use rustls::client::danger::ServerCertVerifier as _;
        for (name, good) in [("localhost", true), ("127.0.0.1", true), ("elsewhere", false)] {
            let name = name.try_into().unwrap();
            assert_eq!(verifier.verify_server_cert(&leaf, &[], &name, &[], now).is_ok(), good, "{name:?}");
        }
    }

    #[test]
    fn a_foreign_or_half_authority_and_a_wicked_name_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../x", "", "a/b", "A", ".."] {
            let result = dev_certs(dir.path(), "t", &[(Role::Edge, name.to_owned())], &[], &[]);
            assert!(matches!(result, Err(CertError::Name(_))), "{name}");
        }
        let (certificate, key) = server_certificate(&["a.example".to_owned()]).unwrap();
        fs::write(dir.path().join("ca.crt"), certificate).unwrap();
        assert!(matches!(trial(dir.path()), Err(CertError::Authority { .. })));
        fs::write(dir.path().join("ca.key"), key).unwrap();
        assert!(matches!(trial(dir.path()), Err(CertError::Authority { .. })));
    }
}
