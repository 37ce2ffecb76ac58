"""Gives ElementTree the method that Python 3.9 took away and the official evaluators still call.

Python imports this file by itself wherever it is on the path, so official scripts run in the image as they are.
"""

import sys

sys.modules["_elementtree"] = None  # the compiled Element takes no new methods
from xml.etree import ElementTree  # noqa: E402

ElementTree.Element.getchildren = lambda element: list(element)  # `list` itself would not be bound
ElementTree.Element.items = lambda element: list(element.attrib.items())  # as the compiled one has it
