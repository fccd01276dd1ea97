//! `strongroom admin retain`.

use serde::Serialize;

use super::{
    Context, User,
    output::{print, print_json, shown, span},
};
use crate::{commands::Exit, config::Span};

/// Keep what a user deletes and replaces for longer than the others'
///
/// It holds for what is kept already, and is measured like `retention` in the configuration.
#[derive(clap::Args)]
pub(super) struct Retain {
    #[command(flatten)]
    user: User,
    #[command(flatten)]
    time: HowLong,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct HowLong {
    /// How long, such as "90 days"
    #[arg(long = "for", value_name = "SPAN", value_parser = parse)]
    span: Option<Span>,
    /// As long as everybody's
    #[arg(long)]
    default: bool,
}

fn parse(text: &str) -> Result<Span, String> {
    Span::try_from(text.to_owned())
}

#[derive(Serialize)]
struct RetainJson {
    user_id: String,
    retention_seconds: Option<u64>,
    everybody_seconds: u64,
}

impl Retain {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { user: User { user_id }, time } = self;
        let mut operator = context.open()?;
        let own = time.span.map(|Span(span)| span);
        operator.retain(&user_id, own)?;
        let everybody = operator.status()?.retention.kept;
        if context.json {
            print_json(&RetainJson {
                user_id: user_id.to_string(),
                retention_seconds: own.map(|own| own.as_secs()),
                everybody_seconds: everybody.as_secs(),
            })?;
            return Ok(Exit::Clean);
        }
        let user_id = shown(&user_id);
        print(&match own {
            None => format!(
                "What {user_id} deletes is kept as long as everybody's: {}.\n",
                span(everybody)
            ),
            Some(own) if own < everybody => format!(
                "{} is noted for {user_id}, but everybody's {} is longer, and holds.\n",
                span(own),
                span(everybody)
            ),
            Some(own) => format!("What {user_id} deletes is kept for {}.\n", span(own)),
        })?;
        Ok(Exit::Clean)
    }
}
