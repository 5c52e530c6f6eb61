//! etcd, kube-apiserver and kube-controller-manager on one host of the lab.
//!
//! Owns their command lines and the order in which they start. Invariant: when a control plane is returned it answers, and its
//! controllers run.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::access::{kubeconfig, serving, write_kubeconfig};
use super::api::Api;
use super::kubectl::Kubectl;
use super::pki::{Identity, Pki, write};
use super::programs::Programs;
use crate::addresses::service_cidrs;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Process;

/// Addresses of the control plane's host on the fabric.
pub const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 88, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2)),
];
/// Cluster address of the cluster's DNS.
pub const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// Port of the first API server.
pub const API_PORT: u16 = 6443;
/// How long a program may take until it is ready: seconds, but on a busy machine more.
const START: Duration = Duration::from_mins(2);
/// What the lab needs of the controllers. Those that judge Nodes by heartbeats, which the lab has not, are left out.
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,endpoints-controller,\
    namespace-controller,serviceaccount-controller,root-ca-certificate-publisher-controller,\
    garbage-collector-controller,deployment-controller,replicaset-controller,replicationcontroller-controller,\
    statefulset-controller,daemonset-controller,service-cidr-controller";

/// What judges real nodes.
const NODE_CONTROLLERS: &str =
    ",node-lifecycle-controller,taint-eviction-controller,pod-garbage-collector-controller";

/// What runs on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelets {
    /// Stand-ins, which also bind Pods: see [`super::kubelet`].
    StandIns,
    /// Real ones, whose Pods a real scheduler binds: see [`super::node`].
    Real,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// Whether it runs is the test's choice: see [`Self::stop_api_server`].
    api_server: Option<Process>,
    _scheduler: Option<Process>,
    _controllers: Process,
    _etcd: Process,
    pki: Pki,
    administrator: Identity,
    site: Site,
}

/// Where programs run and keep their things.
#[derive(Clone, Debug)]
struct Site {
    lab: Arc<Lab>,
    netns: Netns,
    dir: PathBuf,
    programs: Programs,
}

impl ControlPlane {
    /// Starts all of it on the lab's outsider, which has to have [`ADDRESSES`].
    ///
    /// # Errors
    /// If a program was not built, or does not start.
    pub fn start(lab: &Arc<Lab>, programs: &Programs, kubelets: Kubelets) -> Result<Self> {
        let site = Site::new(lab, programs)?;
        let pki = Pki::new(&site.dir.join("pki"))?;
        let administrator = pki.client("administrator", Some("system:masters"))?;
        pki.new_token_key()?;
        serving(&pki)?;
        let etcd = site.start_etcd()?;
        let mut api_server = site.start_api_server(API_PORT)?;
        let api = site.api(&pki, &administrator, API_PORT)?;
        api_server.wait_until(START, || api.is_ready())?;
        // Only now: controllers that find no rights of their own yet give up for good.
        let of = |user: &str| write_kubeconfig(&pki, &pki.client(user, None)?);
        let kubeconfig = of("system:kube-controller-manager")?;
        let mut controllers = site.start_controllers(&kubeconfig, kubelets)?;
        // The first thing that they do and that Pods cannot do without.
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        controllers.wait_until(START, || api.get(account).is_ok())?;
        let scheduler = (kubelets == Kubelets::Real)
            .then(|| site.start_scheduler(&of("system:kube-scheduler")?))
            .transpose()?;
        Ok(Self {
            _scheduler: scheduler,
            api_server: Some(api_server),
            _controllers: controllers,
            _etcd: etcd,
            pki,
            administrator,
            site,
        })
    }

    /// The host that it runs on.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.site.netns
    }

    /// Authority and keys.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The interface of the first API server, for the administrator.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn api(&self) -> Result<Api> {
        self.site.api(&self.pki, &self.administrator, API_PORT)
    }

    /// kubectl for the administrator.
    ///
    /// # Errors
    /// If it was not built.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::new(
            &self.site.programs,
            self.netns(),
            &self.kubeconfig("administrator", Some("system:masters"))?,
        )
    }

    /// A kubeconfig for a user, with a certificate of its own.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn kubeconfig(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let identity = self.pki.client(user, group)?;
        write_kubeconfig(&self.pki, &identity)
    }

    /// The same with a certificate that is valid until so long after 1970.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn kubeconfig_until(&self, user: &str, end: Duration) -> Result<PathBuf> {
        write_kubeconfig(&self.pki, &self.pki.client_until(user, end)?)
    }

    /// Kills the API server as a crash does. What etcd has stays.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_api_server(&mut self) -> Result<()> {
        let mut api_server = self.api_server.take().context("no API server runs")?;
        api_server.kill()
    }

    /// Starts the API server again and waits until it is ready.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_api_server(&mut self) -> Result<()> {
        let mut api_server = self.site.start_api_server(API_PORT)?;
        let api = self.api()?;
        api_server.wait_until(START, || api.is_ready())?;
        self.api_server = Some(api_server);
        Ok(())
    }

    /// Has etcd forget all former versions of everything.
    ///
    /// # Errors
    /// If etcd does not answer.
    pub fn compact(&self) -> Result<()> {
        let ask = |what: &str, body: &str| {
            let url = format!("http://127.0.0.1:2379/v3/kv/{what}");
            let line = format!("curl --fail --silent --show-error --data {body} {url}");
            self.netns().sh(&line)
        };
        // The key of one zero byte, of which only the revision in the answer matters.
        let text = ask("range", "{\"key\":\"AA==\"}")?;
        let answer: Value = serde_json::from_str(&text)?;
        let revision = answer
            .pointer("/header/revision")
            .and_then(Value::as_str)
            .with_context(|| format!("no revision in {text}"))?;
        ask(
            "compaction",
            &format!("{{\"revision\":{revision},\"physical\":true}}"),
        )
        .map(drop)
    }

    /// A kubeconfig whose user is known by a token in a file, which is not written here: the service account `proxy` in `kube-system`,
    /// with kube-proxy's rights. Returns both files.
    ///
    /// # Errors
    /// If the account cannot be created, or a file cannot be written.
    pub fn token_kubeconfig(&self) -> Result<(PathBuf, PathBuf)> {
        let kubectl = self.kubectl()?;
        kubectl.run("create serviceaccount proxy --namespace=kube-system")?;
        kubectl.run("create clusterrolebinding proxy --clusterrole=system:node-proxier --serviceaccount=kube-system:proxy")?;
        let token = self.site.dir.join("proxy.token");
        let user = format!("tokenFile: {}", token.display());
        let path = self.site.dir.join("proxy.kubeconfig");
        write(&path, &kubeconfig(&self.pki.authority(), &user))?;
        Ok((path, token))
    }

    /// Another key for service accounts' tokens: an API server that starts now accepts none of the former ones.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn new_token_key(&self) -> Result<()> {
        self.pki.new_token_key()
    }

    /// Another authority, for the API server that starts next and the administrator. Others have to be [renewed](Self::kubeconfig).
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn new_authority(&mut self) -> Result<()> {
        self.pki = Pki::new(&self.site.dir.join("pki"))?;
        self.administrator = self.pki.client("administrator", Some("system:masters"))?;
        serving(&self.pki)
    }

    /// Starts one more API server on the same etcd, on another port.
    ///
    /// # Errors
    /// If it does not start.
    pub fn another_api_server(&self, port: u16) -> Result<Process> {
        let mut process = self.site.start_api_server(port)?;
        let api = self.site.api(&self.pki, &self.administrator, port)?;
        process.wait_until(START, || api.is_ready())?;
        Ok(process)
    }
}

/// URL of an API server.
#[must_use]
pub fn url(port: u16) -> String {
    format!("https://{}", SocketAddr::new(ADDRESSES[0], port))
}

impl Site {
    fn new(lab: &Arc<Lab>, programs: &Programs) -> Result<Self> {
        let netns = lab.outsider.as_ref();
        Ok(Self {
            netns: netns
                .context("the lab has no host for the control plane")?
                .clone(),
            dir: lab.dir().join("control-plane"),
            programs: programs.clone(),
            lab: Arc::clone(lab),
        })
    }

    fn api(&self, pki: &Pki, identity: &Identity, port: u16) -> Result<Api> {
        Api::new(&self.netns, &url(port), &pki.authority(), identity)
    }

    fn start(&self, program: &str, arguments: &[String]) -> Result<Process> {
        let mut command = Command::new(self.programs.find(program)?);
        let log = self.dir.join(format!("{program}.log"));
        command.args(arguments).current_dir(&self.dir);
        Process::start(self.lab.record(), &self.netns, &mut command, &log)
    }

    fn start_etcd(&self) -> Result<Process> {
        let data = self.dir.join("etcd");
        fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
        let (clients, peers) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
        let arguments = [
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            // What it holds is worth nothing after the test.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        self.start("etcd", &arguments)
    }

    fn start_api_server(&self, port: u16) -> Result<Process> {
        let pki = self.dir.join("pki");
        let file = |name: &str| pki.join(name).display().to_string();
        let arguments = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=::".to_owned(),
            format!("--advertise-address={}", ADDRESSES[0]),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", file("kube-apiserver.crt")),
            format!("--tls-private-key-file={}", file("kube-apiserver.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!(
                "--kubelet-client-certificate={}",
                file("kube-apiserver-kubelet-client.crt")
            ),
            format!(
                "--kubelet-client-key={}",
                file("kube-apiserver-kubelet-client.key")
            ),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--service-cluster-ip-range={}", cluster_cidrs()),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        ];
        self.start("kube-apiserver", &arguments)
    }

    fn start_scheduler(&self, kubeconfig: &Path) -> Result<Process> {
        let kubeconfig = kubeconfig.display();
        let arguments = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", self.dir.join("scheduler").display()),
            "--leader-elect=false".to_owned(),
        ];
        self.start("kube-scheduler", &arguments)
    }

    fn start_controllers(&self, kubeconfig: &Path, kubelets: Kubelets) -> Result<Process> {
        let more = match kubelets {
            Kubelets::StandIns => "",
            Kubelets::Real => NODE_CONTROLLERS,
        };
        let kubeconfig = kubeconfig.display();
        let pki = self.dir.join("pki");
        let arguments = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", self.dir.join("controllers").display()),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!(
                "--service-account-private-key-file={}",
                pki.join("sa.key").display()
            ),
            format!("--root-ca-file={}", pki.join("ca.crt").display()),
            format!("--service-cluster-ip-range={}", cluster_cidrs()),
            "--allocate-node-cidrs=false".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            "--endpointslice-updates-batch-period=0s".to_owned(),
            format!("--controllers={CONTROLLERS}{more}"),
            "--node-monitor-grace-period=16s".to_owned(),
        ];
        self.start("kube-controller-manager", &arguments)
    }
}

fn cluster_cidrs() -> String {
    service_cidrs().map(|cidr| cidr.to_string()).join(",")
}
