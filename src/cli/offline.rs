//! Commands that need no control plane: `translate` and `dev-certs`.

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::{DevCertsArgs, Failure, Io, Output, Source};
use crate::{
    admission,
    catalog::{Configuration, Runtime},
    certs,
    compile::{self, Reader},
    manifest::{self, Mode},
    model::Audience,
    rpc,
    xds::{descriptor, json as protobuf},
};

/// Compiles manifests for one site, with the engine that a control plane runs; secrets are redacted.
///
/// # Errors
/// Every fault of the manifests, or an unknown site.
pub fn translate(site: &str, sources: &[Source], output: Output, io: &mut Io<'_>) -> Result<(), Failure> {
    let configuration = read(sources, io)?;
    let runtime = Runtime::default();
    let role = configuration.sites().get(site).map(|(_, entry)| entry.role).ok_or_else(|| {
        Failure::Failed(format!("the manifests have no Site {site:?}; give its manifest with another -f"))
    })?;
    // Virtual hosts stand in their route configurations here, as for whoever is not served them one by one.
    let audience = Audience { site: site.into(), role, proven: true, cohort: "".into(), delta: false };
    let units = compile::names(&audience, &Reader::new(&configuration, &runtime))
        .ok_or_else(|| Failure::Failed(format!("Site {site:?} is being deleted and is served nothing")))?;
    let mut resources = Vec::new();
    for unit in units {
        let reader = Reader::new(&configuration, &runtime);
        let outcome = compile::compile(&unit, &reader);
        for problem in outcome.problems {
            writeln!(io.err, "warning: {}", problem.message)?;
        }
        if let Some(resource) = outcome.resource {
            let kind = descriptor::message_name(resource.kind.url());
            let mut message = protobuf::to_json(kind, &resource.payload)
                .map_err(|error| Failure::Failed(format!("{resource:?}: {error}")))?;
            protobuf::redact_secrets(kind, &mut message);
            let mut shown = json!({
                "type": resource.kind.url(),
                "name": &*resource.name,
                "version": resource.version.to_string(),
                "resource": message,
            });
            if let Some(ttl) = resource.ttl {
                shown["ttl"] = format!("{}s", ttl.as_secs_f64()).into();
            }
            resources.push(shown);
        }
    }
    match output {
        Output::Json => writeln!(io.out, "{:#}", Value::Array(resources))?,
        Output::Name => {
            for resource in &resources {
                writeln!(io.out, "{}", resource["name"].as_str().unwrap_or_default())?;
            }
        }
        Output::Yaml | Output::Wide => {
            for resource in &resources {
                writeln!(io.out, "---\n{}", manifest::to_yaml(resource).trim_end())?;
            }
        }
    }
    Ok(())
}

/// Everything in `sources` as a configuration, if all of it is good.
fn read(sources: &[Source], io: &mut Io<'_>) -> Result<Configuration, Failure> {
    let mut objects = Vec::new();
    let mut faults = Vec::new();
    for source in sources {
        let parsed = manifest::parse(&source.name, &source.text, Mode::Strict);
        objects.extend(parsed.objects.into_iter().map(|located| located.object));
        for warning in parsed.warnings {
            writeln!(io.err, "warning: {warning}")?;
        }
        faults.extend(parsed.faults.into_iter().map(|fault| rpc::Fault {
            message: fault.text(),
            source: fault.source,
            line: fault.line,
            column: fault.column,
        }));
    }
    if !faults.is_empty() {
        return Err(Failure::Faults(faults));
    }
    let empty = Configuration::default();
    let verdict = admission::check(&empty, &Runtime::default(), &objects, &[]);
    if let Some((object, message)) = verdict.faults.first() {
        return Err(Failure::Failed(format!("{object}: {message}")));
    }
    Ok(empty.overlay(&objects, &[]))
}

/// Writes a CA and certificates, and says where.
///
/// # Errors
/// In words: a name that makes no identity, a folder that cannot be written.
pub fn dev_certs(args: &DevCertsArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let sites: Vec<_> = args.sites.iter().map(|site| (site.role, site.name.clone())).collect();
    // The name itself, and those by which trials reach a server on their own machine.
    let with_names = |name: &String| (name.clone(), vec![name.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()]);
    let control_planes: Vec<_> = args.control_planes.iter().map(with_names).collect();
    let etcds: Vec<_> = args.etcds.iter().map(with_names).collect();
    let told = |error: certs::CertError| Failure::Failed(error.to_string());
    let mut folders =
        certs::dev_certs(&args.dir, &args.trust_domain, &sites, &args.operators, &control_planes).map_err(told)?;
    folders.extend(certs::etcd_certs(&args.dir, &args.trust_domain, &etcds).map_err(told)?);
    for folder in folders {
        writeln!(io.out, "{}", folder.display())?;
    }
    Ok(())
}
