"""The groups of commands of `famseg`. Each command imports what it needs when it runs: `--help` waits for nothing."""
