"""HTML and SVG as trees, so that no text can become a tag: names and captions come from anywhere."""

from xml.etree import ElementTree

from muskie_jax.errors import printable

Element = ElementTree.Element


def tag(name: str, /, *children: "Element | str | None", **attributes: object) -> Element:
    """An element, with elements and text in it.

    Args:
      name: such as "p".
      children: in order; None is nothing.
      attributes: `class_` is class, and other underscores are hyphens. None and False leave one out, and
        True gives it no value.
    """
    element = Element(name)
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            element.set(key, "" if value is True else printable(str(value)))
    for child in children:
        if isinstance(child, str):
            child = printable(child)
            if len(element):
                element[-1].tail = (element[-1].tail or "") + child
            else:
                element.text = (element.text or "") + child
        elif child is not None:
            element.append(child)
    return element


def raw(name: str, content: str) -> Element:
    """A style or script of ours, whose text is no markup."""
    element = Element(name)
    element.text = content
    return element


def page_text(root: Element) -> str:
    """A whole page."""
    return "<!doctype html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"
