//! The keyboard controller, an 8042: the line that resets the CPU, and a keyboard on which nobody but the control interface
//! presses a key.
//!
//! It speaks what drivers ask of it: a controller without a second port and without translation, so that a keyboard's codes
//! are those of set 2, and a keyboard that acknowledges whatever it is told.

use std::{collections::VecDeque, fmt, io};

use vm_device::{
    MutDevicePio,
    bus::{PioAddress, PioAddressOffset},
};
use vmm_sys_util::eventfd::EventFd;

use super::EndOnWrite;

/// Where it is: the first port, and how many.
pub const KEYBOARD_PORTS: (u16, u16) = (0x60, 5);
/// The interrupt of a PC's keyboard.
pub const KEYBOARD_GSI: u32 = 1;

/// Where the data is, from the first port.
const DATA: PioAddressOffset = 0;
/// Where the status is read and commands are written.
const COMMAND: PioAddressOffset = 4;

/// There is something to read.
const STATUS_OUTPUT: u8 = 1 << 0;
/// The controller has passed its own test.
const STATUS_SYSTEM: u8 = 1 << 2;

/// The controller interrupts when there is something to read.
const CONTROL_INTERRUPT: u8 = 1 << 0;
const CONTROL_SYSTEM: u8 = 1 << 2;
/// The keyboard is switched off.
const CONTROL_OFF: u8 = 1 << 4;
/// The second port is off; there is none.
const CONTROL_SECOND_OFF: u8 = 1 << 5;
/// Set 2 is made set 1; not to be had.
const CONTROL_TRANSLATE: u8 = 1 << 6;

const ACKNOWLEDGE: u8 = 0xfa;
/// An ordinary keyboard, by what it answers when it is asked.
const IDENTITY: [u8; 2] = [0xab, 0x83];
/// Ctrl, Alt and Del down, and up again in the other order.
const CTRL_ALT_DEL: [u8; 11] = [0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14];
/// Bytes that wait to be read; more than a driver asks for at a time.
const MOST_OUTPUT: usize = 32;

/// The controller and its keyboard.
pub struct Keyboard {
    control: u8,
    /// What the next byte of data is for, if it is not for the keyboard.
    expects: Option<Expected>,
    output: VecDeque<u8>,
    interrupt: EventFd,
    reset: EndOnWrite,
}

/// What a byte of data is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The control byte.
    Control,
    /// Something that is not there: the output port, the second port.
    Nothing,
    /// To be read again, as if it came from the second port.
    Loop,
}

impl Keyboard {
    /// Calls `reset` when the guest resets its CPU.
    ///
    /// # Errors
    /// What `eventfd` returned.
    pub fn new(reset: EndOnWrite) -> io::Result<Self> {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let control = CONTROL_SYSTEM | CONTROL_SECOND_OFF;
        Ok(Self { control, expects: None, output: VecDeque::new(), interrupt, reset })
    }

    /// To be made an irqfd of [`KEYBOARD_GSI`].
    #[must_use]
    pub const fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Presses Ctrl, Alt and Del. Returns whether the guest listens: it has a driver that has switched the keyboard on.
    #[must_use]
    pub fn press_ctrl_alt_del(&mut self) -> bool {
        let listens = self.control & (CONTROL_INTERRUPT | CONTROL_OFF) == CONTROL_INTERRUPT;
        if listens {
            self.say(&CTRL_ALT_DEL);
        }
        listens
    }

    fn command(&mut self, command: u8) {
        self.expects = None;
        match command {
            0x20 => self.say(&[self.control]),
            0x60 => self.expects = Some(Expected::Control),
            // The second port is not there, which any answer but these two tells: 0 and 0xfa.
            0xa9 => self.say(&[0x01]),
            // The controller is well.
            0xaa => self.say(&[0x55]),
            // So is the line to the keyboard.
            0xab => self.say(&[0x00]),
            0xad => self.control |= CONTROL_OFF,
            0xae => self.control &= !CONTROL_OFF,
            0xd0 => self.say(&[0x03]),
            0xd1 | 0xd4 => self.expects = Some(Expected::Nothing),
            0xd2 | 0xd3 => self.expects = Some(Expected::Loop),
            0xfe => (self.reset)(0),
            _ => {}
        }
    }

    fn data(&mut self, byte: u8) {
        match (self.expects.take(), byte) {
            (Some(Expected::Control), control) => {
                self.control = (control & !CONTROL_TRANSLATE) | CONTROL_SECOND_OFF;
                self.tell();
            }
            (Some(Expected::Loop), byte) => self.say(&[byte]),
            (Some(Expected::Nothing), _) => {}
            // To the keyboard: identify, and reset, after which it says that it is well.
            (None, 0xf2) => self.say(&[ACKNOWLEDGE, IDENTITY[0], IDENTITY[1]]),
            (None, 0xff) => self.say(&[ACKNOWLEDGE, 0xaa]),
            (None, _) => self.say(&[ACKNOWLEDGE]),
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        let room = MOST_OUTPUT.saturating_sub(self.output.len());
        self.output.extend(bytes.iter().take(room));
        self.tell();
    }

    /// Interrupts, if there is something to read and the driver wants to know.
    fn tell(&self) {
        if !self.output.is_empty() && self.control & CONTROL_INTERRUPT != 0 {
            // It fails only when the event is raised already.
            let _already = self.interrupt.write(1);
        }
    }

    fn status(&self) -> u8 {
        STATUS_SYSTEM | if self.output.is_empty() { 0 } else { STATUS_OUTPUT }
    }

    fn take(&mut self) -> u8 {
        let byte = self.output.pop_front().unwrap_or(0);
        // One interrupt a byte.
        self.tell();
        byte
    }
}

impl MutDevicePio for Keyboard {
    fn pio_read(&mut self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        let byte = match offset {
            DATA => self.take(),
            COMMAND => self.status(),
            _ => 0,
        };
        data.fill(byte);
    }

    fn pio_write(&mut self, _: PioAddress, offset: PioAddressOffset, data: &[u8]) {
        match (offset, data.first()) {
            (DATA, Some(byte)) => self.data(*byte),
            (COMMAND, Some(command)) => self.command(*command),
            _ => {}
        }
    }
}

impl fmt::Debug for Keyboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyboard")
            .field("control", &self.control)
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    fn keyboard() -> Keyboard {
        Keyboard::new(Box::new(|_| {})).unwrap()
    }

    fn command(keyboard: &mut Keyboard, command: u8) {
        keyboard.pio_write(PioAddress(0x64), COMMAND, &[command]);
    }

    fn data(keyboard: &mut Keyboard, byte: u8) {
        keyboard.pio_write(PioAddress(0x60), DATA, &[byte]);
    }

    /// All there is to read, as a driver that polls reads it.
    fn read_all(keyboard: &mut Keyboard) -> Vec<u8> {
        let mut all = Vec::new();
        let mut byte = [0];
        loop {
            keyboard.pio_read(PioAddress(0x64), COMMAND, &mut byte);
            if byte[0] & STATUS_OUTPUT == 0 {
                return all;
            }
            keyboard.pio_read(PioAddress(0x60), DATA, &mut byte);
            all.extend(byte);
        }
    }

    #[test]
    fn only_the_reset_command_resets() {
        let resets = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&resets);
        let reset = Box::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let mut keyboard = Keyboard::new(reset).unwrap();

        command(&mut keyboard, 0xd1);
        data(&mut keyboard, 0xfe);
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        command(&mut keyboard, 0xfe);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_driver_that_probes_it_is_answered() {
        let mut keyboard = keyboard();
        let mut ask = |bytes: &[(PioAddressOffset, u8)]| {
            for &(port, byte) in bytes {
                keyboard.pio_write(PioAddress(0x60), port, &[byte]);
            }
            read_all(&mut keyboard)
        };

        assert_eq!(ask(&[(COMMAND, 0x20)]), [CONTROL_SYSTEM | CONTROL_SECOND_OFF]);
        assert_eq!(ask(&[(COMMAND, 0x60), (DATA, 0x77), (COMMAND, 0x20)]), [0x37], "no translation");
        assert_eq!(ask(&[(COMMAND, 0xaa)]), [0x55]);
        assert_eq!(ask(&[(COMMAND, 0xab)]), [0x00]);
        assert_eq!(ask(&[(COMMAND, 0xd3), (DATA, 0x5a)]), [0x5a]);
        assert_eq!(ask(&[(COMMAND, 0xa9)]), [0x01], "no second port");
        assert_eq!(ask(&[(COMMAND, 0xd4), (DATA, 0xff)]), [0; 0], "nobody answers there");
        assert_eq!(ask(&[(DATA, 0xff)]), [ACKNOWLEDGE, 0xaa]);
        assert_eq!(ask(&[(DATA, 0xf2)]), [ACKNOWLEDGE, 0xab, 0x83]);
        assert_eq!(ask(&[(DATA, 0xed), (DATA, 0x00)]), [ACKNOWLEDGE, ACKNOWLEDGE]);
    }

    #[test]
    fn keys_reach_only_a_guest_that_listens() {
        let mut keyboard = keyboard();
        assert!(!keyboard.press_ctrl_alt_del(), "no driver");
        command(&mut keyboard, 0x60);
        data(&mut keyboard, CONTROL_INTERRUPT | CONTROL_OFF);
        assert!(!keyboard.press_ctrl_alt_del(), "switched off");
        command(&mut keyboard, 0xae);

        assert!(keyboard.press_ctrl_alt_del());

        // One interrupt for each byte: the next is there when the one before has been read.
        let mut codes = Vec::new();
        while keyboard.interrupt().read().is_ok() {
            let mut byte = [0];
            keyboard.pio_read(PioAddress(0x60), DATA, &mut byte);
            codes.extend(byte);
        }
        assert_eq!(codes, CTRL_ALT_DEL);
    }

    #[test]
    fn a_driver_that_never_reads_fills_nothing() {
        let mut keyboard = keyboard();
        for _ in 0..1000 {
            command(&mut keyboard, 0x20);
        }
        assert_eq!(keyboard.output.len(), MOST_OUTPUT);
    }
}
