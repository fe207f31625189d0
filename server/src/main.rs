//! The `millstream` binary.

mod cli;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use millstream::error::{Error, Result, SqlState};
use millstream_server::config::{Config, LogFormat};
use millstream_server::oneshot::{self, OutputFormat, Stop};
use millstream_server::{Server, demo, exit_code};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two libraries bring a TLS provider each; the choice must be made before either is used. It fails only if it was
    // made already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("millstream").build();
    let runtime = match runtime {
        Ok(r) => r,
        Err(e) => return fail(&Error::new(SqlState::IO_ERROR, format!("cannot start threads: {e}")), ""),
    };
    runtime.block_on(async {
        match cli.command {
            cli::Command::Server { config, settings } => {
                let run = async {
                    let config = Config::load(settings, config.as_deref())?;
                    log(&config.log, config.log_format)?;
                    serve(config, None).await
                };
                finish(run.await)
            }
            cli::Command::Demo { rate, seed, config, settings } => {
                let run = async {
                    let mut settings = settings;
                    // The picture and log lines would overwrite each other.
                    if std::io::stdout().is_terminal() && settings.log.is_none() {
                        settings.log = Some("error".into());
                    }
                    let config = Config::load(settings, config.as_deref())?;
                    log(&config.log, config.log_format)?;
                    serve(config, Some((rate, seed))).await
                };
                finish(run.await)
            }
            cli::Command::Test { files, bless } => test(&files, bless).await,
            cli::Command::Sql { sql, file, format } => one_shot(sql, file.as_deref(), format).await,
        }
    })
}

fn finish(r: Result<()>) -> ExitCode {
    match r {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e, ""),
    }
}

/// Prints the error and gives the exit code for it.
fn fail(e: &Error, sql: &str) -> ExitCode {
    // Nobody to tell if this fails.
    let _ = writeln!(std::io::stderr(), "{}", oneshot::render(e, sql));
    ExitCode::from(exit_code(e))
}

fn log(filter: &str, format: LogFormat) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|e| {
        Error::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value \"{filter}\" of log: {e}"))
            .hint("For example: info, or millstream=debug,warn.")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let set = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    set.map_err(|e| Error::internal(format!("logging: {e}")))
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let io = |e: std::io::Error| Error::new(SqlState::IO_ERROR, format!("cannot handle signals: {e}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(io)?,
            terminate: signal(SignalKind::terminate()).map_err(io)?,
        })
    }
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Serves until a signal comes or the engine fails. The first signal stops in order, the second at once.
async fn serve(config: Config, show: Option<(u64, u64)>) -> Result<()> {
    let mut signals = Signals::new()?;
    let server = tokio::select! {
        s = Server::start(config) => s?,
        // A takeover or a restore may take long; nothing has been changed yet.
        () = signals.next() => return Ok(()),
    };
    let engine = server.engine.clone();
    let ended = {
        let mut stdout = std::io::stdout();
        let stop = signals.next();
        let work = async {
            match show {
                Some((rate, seed)) => demo::run(&server, rate, seed, stop, &mut stdout).await,
                None => {
                    stop.await;
                    Ok(())
                }
            }
        };
        tokio::select! {
            e = engine.failed() => Err(e),
            r = work => Ok(r),
        }
    };
    match ended {
        Err(failed) => {
            // The engine cannot go on: no checkpoint can be taken any more.
            tracing::error!(code = failed.code.0, error = %failed, "the engine has failed");
            server.abandon();
            Err(failed)
        }
        Ok(result) => {
            tracing::info!("stopping; a second signal stops at once");
            tokio::select! {
                stopped = server.shutdown() => result.and(stopped),
                () = signals.next() => {
                    tracing::warn!("stopped at once; the last checkpoint counts");
                    std::process::exit(130);
                }
            }
        }
    }
}

/// Runs scripts one after another; fails if one of them does.
async fn test(files: &[std::path::PathBuf], bless: bool) -> ExitCode {
    let level = std::env::var("MILLSTREAM_LOG").unwrap_or_else(|_| "error".into());
    if let Err(e) = log(&level, LogFormat::Text) {
        return fail(&e, "");
    }
    let mut failed = 0;
    for file in files {
        let line = match millstream_server::script::run(file, bless).await {
            Ok(done) => format!("ok      {}  ({done})", file.display()),
            Err(why) => {
                failed += 1;
                format!("FAILED  {}\n{why}", file.display())
            }
        };
        if writeln!(std::io::stdout(), "{line}").is_err() {
            return ExitCode::SUCCESS;
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn one_shot(sql: Option<String>, file: Option<&Path>, format: OutputFormat) -> ExitCode {
    let text = match (sql, file) {
        (Some(sql), _) => Ok(sql),
        (None, Some(p)) if p == Path::new("-") => {
            let mut s = String::new();
            std::io::stdin().read_to_string(&mut s).map(|_| s)
        }
        (None, Some(p)) => std::fs::read_to_string(p),
        (None, None) => Ok(String::new()),
    };
    let text = match text {
        Ok(t) => t,
        Err(e) => return fail(&Error::new(SqlState::IO_ERROR, format!("cannot read the statements: {e}")), ""),
    };
    let level = std::env::var("MILLSTREAM_LOG").unwrap_or_else(|_| "warn".into());
    if let Err(e) = log(&level, LogFormat::Text) {
        return fail(&e, "");
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let ran = tokio::select! {
        r = oneshot::run(&text, format, &mut out) => r,
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    match ran.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        // `| head` closed the pipe: not an error of ours.
        Err(Stop::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Stop::Output(e)) => fail(&Error::new(SqlState::IO_ERROR, format!("cannot write the result: {e}")), ""),
        Err(Stop::Sql(e)) => {
            // What was printed before the error comes first.
            let _ = out.flush();
            let _ = writeln!(std::io::stderr(), "{}", oneshot::render(&e, &text));
            ExitCode::FAILURE
        }
    }
}
