"""What all tests share: the plugin that runs those marked `vm` in a virtual machine."""

pytest_plugins = ["tests.vm.plugin"]
