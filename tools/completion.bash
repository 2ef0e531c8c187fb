# Completion of make's targets with what `make help` lists, in folders whose Makefile describes them (## after the target).
# SPDX-License-Identifier: GPL-3.0-or-later
_described_targets() {
  local word=${COMP_WORDS[COMP_CWORD]} targets
  targets=$(sed -n 's/^\([a-z-]*\):.*## .*/\1/p' Makefile 2>/dev/null)
  case $word in
    *=*) ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$targets" -- "$word") ;;
  esac
}
complete -o default -F _described_targets make
