# SPDX-License-Identifier: Apache-2.0
"""Mistakes of the user, as opposed to mistakes of the program."""


class UserError(Exception):
    """Something the user can put right. Printed as one message without a trace; the exit code is 2."""
