//! Who may use a proxy's admin address: flags of every role that has one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use sealane_proxy::settings::{ADMIN_RATE, AdminSettings, AdminTls, RETIRED_MAX, Settings};

use crate::exit::{Exit, Failure};

/// Who may use the admin address, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin address options")]
pub(crate) struct AdminArgs {
    /// File with the bearer token that the admin API asks for
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,
    /// Certificate of the admin address, PEM: it speaks TLS
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_TLS_CERT", requires = "admin_tls_key")]
    admin_tls_cert: Option<String>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_TLS_KEY", requires = "admin_tls_cert")]
    admin_tls_key: Option<String>,
    /// CA of client certificates, PEM: without one nobody is let in, token or not
    #[arg(long, value_name = "FILE", env = "SEALANE_ADMIN_CLIENT_CA", requires = "admin_tls_cert")]
    admin_client_ca: Option<String>,
    /// How often one address may check, apply or roll back a config a second, twice as often at once; 0: no limit
    #[arg(long, value_name = "N", env = "SEALANE_ADMIN_RATE", default_value_t = ADMIN_RATE)]
    admin_rate: u32,
    /// Retired configs that requests may still use while another one is taken; one more waits
    #[arg(long, value_name = "N", env = "SEALANE_MAX_RETIRED", default_value_t = RETIRED_MAX)]
    max_retired: usize,
}

/// An admin listener that nothing but loopback protects yet. `flag` is what set the address.
pub(crate) fn settings(address: SocketAddr, flag: &'static str, insecure: bool) -> AdminSettings {
    AdminSettings { address, flag, token: None, tls: None, rate_per_second: ADMIN_RATE, insecure, extra: None }
}

impl AdminArgs {
    /// Reads the token's file and puts everything into `settings`.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub(crate) fn apply(&self, settings: &mut Settings) -> Result<(), Failure> {
        settings.retired_max = self.max_retired;
        let Some(admin) = &mut settings.admin else { return Ok(()) };
        admin.rate_per_second = self.admin_rate;
        if let Some(file) = &self.admin_token_file {
            let shown = file.display();
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot read the admin token `{shown}`")).because(error)
            })?;
            let token = text.trim().to_owned();
            if token.is_empty() {
                return Err(Failure::usage(format!("the admin token file `{shown}` is empty"))
                    .hint(format!("head -c 32 /dev/urandom | base64 > {shown}")));
            }
            admin.token = Some(token);
        }
        if let (Some(cert_file), Some(key_file)) = (self.admin_tls_cert.clone(), self.admin_tls_key.clone()) {
            admin.tls = Some(AdminTls { cert_file, key_file, client_ca_file: self.admin_client_ca.clone() });
        }
        Ok(())
    }
}
