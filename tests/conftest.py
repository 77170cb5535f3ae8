"""What all tests share: the plugin that runs those marked `vm` in a virtual machine."""

import signal

# A shell without job control starts what is in the background with these ignored, and so would be all that the tests
# start: a terminal's Ctrl-C would end nobody.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

pytest_plugins = ["tests.vm.plugin"]
