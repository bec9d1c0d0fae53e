//! Guest RAM that shares its memory with other guest RAM.

use mmu_notifier::AddressRange;

use crate::{
    GuestRam, GuestRamConfig, ManagedError, create::CreateRamError, host::Injector, managed::Managed,
    ram::Resolver,
};

impl GuestRam {
    /// Makes RAM that shares the memory of this one: what a guest writes to one is what is read in the other, page by page
    /// from the start. Each has a window, a memory manager and threads of its own, and ends by itself.
    ///
    /// This one is managed, and was made to be [shared](crate::ManagedConfig::shared). `config` asks for as much of the
    /// same backing; where the first content comes from, and how much is zeroed ahead, was said when this one was made.
    ///
    /// A [`discard`](Self::discard) of either takes the pages from both, and tells the subscribers of both;
    /// [`Mm::dont_need`](crate::Mm::dont_need) takes them from one, and no content. What each has of the pages that both
    /// map, their shares, is in its [`mm_report`](Self::mm_report).
    ///
    /// ```no_run
    /// # use guest_mem::{Backing, GuestRam, GuestRamConfig, ManagedConfig};
    /// # use vm_memory::{Bytes, GuestAddress};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = || -> Result<_, Box<dyn std::error::Error>> {
    ///     let managed = ManagedConfig { shared: true, ..ManagedConfig::default() };
    ///     Ok(GuestRamConfig { managed, ..GuestRamConfig::new("64M".parse()?, Backing::Managed4kb) })
    /// };
    /// let one = GuestRam::create(config()?)?;
    /// let other = one.share(&config()?)?;
    ///
    /// one.view().write_obj(7_u64, GuestAddress(0x1000))?;
    /// assert_eq!(other.view().read_obj::<u64>(GuestAddress(0x1000))?, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CreateRamError`]; nothing is left behind.
    pub fn share(&self, config: &GuestRamConfig) -> Result<Self, CreateRamError> {
        self.share_unless_injected(config, &Injector::none())
    }

    pub(crate) fn share_unless_injected(
        &self,
        config: &GuestRamConfig,
        injector: &Injector,
    ) -> Result<Self, CreateRamError> {
        let Resolver::Underlay(managed) = &self.resolver else {
            return Err(ManagedError::NotShared.into());
        };
        let (backing, size) = (self.backing.clone(), self.size);
        if config.backing != backing || config.size != size {
            return Err(ManagedError::Unlike { size, backing }.into());
        }
        let range = AddressRange::new(config.guest_base.0, size.bytes())?;
        let (mapping, managed) = Managed::share(managed, &backing, size, range, &config.managed, injector)?;
        Self::of_managed(config, range, mapping, managed)
    }
}
