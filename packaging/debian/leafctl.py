#!/usr/lib/leafd/bin/python3 -I
import sys

from leafd.cli import main

sys.exit(main())
