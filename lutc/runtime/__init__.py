"""Running artifacts: on this machine (session), or AArch64 ones under qemu (emulator, emulated_session)."""
