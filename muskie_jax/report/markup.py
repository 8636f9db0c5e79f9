"""HTML and SVG as element trees, which escape all text: model names and captions are untrusted."""

from xml.etree import ElementTree

from muskie_jax.errors import printable

Element = ElementTree.Element


def tag(name: str, /, *children: "Element | str | None", **attributes: object) -> Element:
    """Returns an element with child elements and text.

    Args:
      name: element name, such as "p".
      children: children in order; None is skipped.
      attributes: attributes by name; `class_` becomes class, and other underscores become hyphens. None and
        False omit an attribute; True sets it without a value.
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
    """Returns a style or script element. Its content is not escaped, so it must be trusted."""
    element = Element(name)
    element.text = content
    return element


def page_text(root: Element) -> str:
    """Serialises a document as HTML5."""
    return "<!doctype html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"
