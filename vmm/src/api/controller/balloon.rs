//! `/balloon` and what lies below it.

use super::{Answer, Controller, Fault};
use crate::api::{
    configuration::check_balloon,
    schema::{
        Balloon, BalloonHintingStart, BalloonHintingStatus, BalloonStatistics, BalloonStatisticsUpdate,
        BalloonUpdate, Refused,
    },
};

impl Controller {
    pub(in crate::api) fn balloon(&self) -> Result<&Balloon, Fault> {
        self.config().balloon.as_ref().ok_or_else(|| Fault::NotConfigured("balloon".to_owned()))
    }

    pub(in crate::api) fn put_balloon(&mut self, balloon: Balloon) -> Result<Answer, Fault> {
        self.before_start("the balloon")?.set_balloon(balloon)?;
        Ok(Answer::Done)
    }

    pub(in crate::api) fn patch_balloon(&mut self, update: BalloonUpdate) -> Result<Answer, Fault> {
        self.started("a change of the balloon")?;
        self.balloon()?;
        check_balloon(self.config(), update.amount_mib)?;
        self.started("a change of the balloon")?.set_balloon(update.amount_mib)?;
        self.note(|balloon| balloon.amount_mib = update.amount_mib);
        Ok(Answer::Done)
    }

    pub(in crate::api) fn balloon_statistics(&mut self) -> Result<BalloonStatistics, Fault> {
        self.started("statistics of the balloon")?;
        if self.balloon()?.stats_polling_interval_s == 0 {
            return Err(no_statistics());
        }
        Ok(self.started("statistics of the balloon")?.balloon_statistics()?)
    }

    /// Statistics are on or off from the start: only how often they come can be changed.
    pub(in crate::api) fn patch_balloon_statistics(
        &mut self,
        update: BalloonStatisticsUpdate,
    ) -> Result<Answer, Fault> {
        self.started("a change of the balloon's statistics")?;
        let (now, then) = (self.balloon()?.stats_polling_interval_s, update.stats_polling_interval_s);
        match (now, then) {
            (0, 0) => return Ok(Answer::Done),
            (0, _) => return Err(no_statistics()),
            (_, 0) => {
                let reason = "must not be 0: statistics cannot be switched off after the start";
                return Err(Refused::new("stats_polling_interval_s", reason).into());
            }
            _ => self.started("a change of the balloon's statistics")?.set_balloon_interval(then)?,
        }
        self.note(|balloon| balloon.stats_polling_interval_s = then);
        Ok(Answer::Done)
    }

    pub(in crate::api) fn start_hinting(&mut self, how: BalloonHintingStart) -> Result<Answer, Fault> {
        self.check_hinting()?;
        self.started("hinting")?.start_hinting(how.acknowledge_on_stop)?;
        Ok(Answer::Done)
    }

    pub(in crate::api) fn stop_hinting(&mut self) -> Result<Answer, Fault> {
        self.check_hinting()?;
        self.started("hinting")?.stop_hinting()?;
        Ok(Answer::Done)
    }

    pub(in crate::api) fn hinting_status(&mut self) -> Result<BalloonHintingStatus, Fault> {
        self.check_hinting()?;
        Ok(self.started("hinting")?.hinting_status()?)
    }

    fn check_hinting(&mut self) -> Result<(), Fault> {
        self.started("hinting")?;
        if self.balloon()?.free_page_hinting {
            return Ok(());
        }
        Err(Refused::new("free_page_hinting", "is not on: configure it with the balloon").into())
    }

    fn note(&mut self, change: impl FnOnce(&mut Balloon)) {
        if let Some(balloon) = &mut self.configuration.config_mut().balloon {
            change(balloon);
        }
    }
}

fn no_statistics() -> Fault {
    let reason = "is 0, so there are no statistics: configure it with the balloon";
    Refused::new("stats_polling_interval_s", reason).into()
}
