#!/usr/lib/leafd/bin/python3 -I
import sys

from leafd.daemon import main

sys.exit(main())
