"""The words and turns of phrase that captions are made of."""

from __future__ import annotations

SHAPE_WORDS = {
    "sphere": ("sphere", "ball", "orb", "globe"),
    "cube": ("cube", "box", "block", "cuboid"),
    "cylinder": ("cylinder", "can", "drum", "tube", "barrel"),
    "cone": ("cone",),
    "torus": ("torus", "ring", "donut", "doughnut"),
    "pyramid": ("pyramid",),
}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet", "maroon"),
    "orange": ("orange",),
    "yellow": ("yellow", "lemon", "gold"),
    "green": ("green", "emerald", "lime"),
    "cyan": ("cyan", "turquoise", "aqua", "teal"),
    "blue": ("blue", "royal blue", "navy"),
    "purple": ("purple", "violet", "lavender"),
    "pink": ("pink", "rose", "magenta"),
    "white": ("white",),
    "black": ("black",),
}
THINGS = ("object", "thing", "solid")
"""A solid whose shape is not said."""
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
MATERIAL_WORDS = {
    "matte": ("matte", "dull", "rubber"),
    "shiny": ("shiny", "glossy", "polished", "metal", "metallic"),
}
COLOURED = ("colored", "coloured")
"""What a colour's word may be followed by, as in "red-colored"."""
AFTER = ("that is", "which is", "in")
"""What a colour's word may follow where it comes after its solid."""
TABLE_WORDS = {
    "wooden": ("a wooden table", "a wood table", "wood"),
    "stone": ("a stone table", "stone"),
    "slate": ("a slate table", "a dark table", "slate"),
    "linen": ("a linen tablecloth", "a table with a cloth", "linen"),
    "tiled": ("a tiled table", "a checkered table", "tiles"),
}
LIGHT_WORDS = {"left": "lit from the left", "right": "lit from the right", "front": "lit from the front"}
NUMBER_WORDS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
ONE = ("one", "1", "a single")
PAIR = ("a pair of", "a couple of")
EXACTLY = ("exactly", "only", "just")
NUMBERS = tuple(word for words in NUMBER_WORDS.values() for word in words)
ANY_TABLE = ("on a table", "on the table", "on top of a table")
COMMON_OPENINGS = (
    "a photo of ",
    "a picture of ",
    "an image of ",
    "photo of ",
    "picture of ",
    "there is ",
    "i see ",
    "a scene with ",
    "a photo with ",
)
"""Every other opening is one of these."""
OPENINGS = (
    "a rendering of ",
    "a 3d render of ",
    "a photograph of ",
    "a drawing of ",
    "a close-up of ",
    "a still life with ",
    "a picture showing ",
    "image of ",
    "this is ",
    "there's ",
    "please draw ",
    "draw ",
    "draw me ",
    "show me ",
    "i want ",
    "i would like ",
    "i would like to see ",
    "i need ",
    "can you draw ",
    "could you paint ",
    "please make ",
    "please show ",
    "create ",
    "generate ",
    "generate an image of ",
    "render ",
    "paint ",
    "give me ",
    "imagine ",
    "we see ",
    "something like ",
    "the following: ",
    "an illustration of ",
)
ENDINGS = (" please", ", please", "?", "!", ", thank you")
NOTHING_ELSE = (", and nothing else", " and nothing else", ", no other objects", " with no other objects")
FILLERS = ("beautiful", "nice", "simple", "3d", "high quality", "detailed", "4k", "perfect", "lovely", "plain")

LEFT_OF = (
    "to the left of",
    "left of",
    "on the left of",
    "on the left side of",
    "to the left side of",
    "at the left of",
)
RIGHT_OF = (
    "to the right of",
    "right of",
    "on the right of",
    "on the right side of",
    "to the right side of",
    "at the right of",
)
IN_FRONT_OF = ("in front of", "before", "closer than", "below")
BEHIND = ("behind", "in back of", "further away than", "above")
NEXT_TO = ("next to", "beside", "near", "close to", "by", "alongside", "adjacent to", "to the side of")
TOGETHER = ("next to each other", "side by side", "close together")
IS = ("is", "stands", "sits", "is placed")
STANDING = ("that is", "which is", "located", "standing", "positioned", "placed", "sitting")
"""A solid that has just been named, before the words for its place."""
AND = ("and", "with", "and also", "as well as", "plus", "together with")
ITS = {
    LEFT_OF: ("to its left", "on its left", "to the left of it", "on the left of it"),
    RIGHT_OF: ("to its right", "on its right", "to the right of it", "on the right of it"),
    IN_FRONT_OF: ("in front of it",),
    BEHIND: ("behind it",),
}
"""A relation to what has just been named."""
WITH_IT = ("{b} and {its} {a}", "{b}, {its} {a}", "{b} and {a} {its}")
ITS_OWN = {
    LEFT_OF: ("on the left", "to the left", *ITS[LEFT_OF]),
    RIGHT_OF: ("on the right", "to the right", *ITS[RIGHT_OF]),
    IN_FRONT_OF: ("in front", *ITS[IN_FRONT_OF]),
    BEHIND: ("behind", *ITS[BEHIND]),
}
"""The same after what a thing has, or stands with."""
HAS_IT = ("{b} with {a} {its}", "{b} has {a} {its}")
SIDES = (
    "{a} on the left and {b} on the right",
    "{a} on the left, {b} on the right",
    "{a} is on the left and {b} is on the right",
    "{b} on the right and {a} on the left",
    "on the left {a}, on the right {b}",
    "on the left is {a} and on the right is {b}",
    "on the right {b}, on the left {a}",
    "left {a}, right {b}",
    "{a} on the left, and {b} on the right",
    "{a} is on the left; {b} is on the right",
    "on the left side {a}, on the right side {b}",
    "on the left there is {a}, on the right there is {b}",
    "on the right there is {b}, on the left there is {a}",
    "on the right is {b} and on the left is {a}",
)
"""a is to the left of b."""
DEPTHS = (
    "{a} in front and {b} behind",
    "{a} in the foreground and {b} in the background",
    "in front {a}, behind it {b}",
    "in the foreground {a}, in the background {b}",
    "{b} in the background and {a} in the foreground",
)
"""a is in front of b."""
ROWS = (
    "from left to right: {row}",
    "from left to right, {row}",
    "left to right: {row}",
    "left to right, {row}",
    "{row}, from left to right",
    "{row} from left to right",
)
"""What follows is told from left to right."""
MIDDLES = (
    "{a} on the left, {b} in the middle and {c} on the right",
    "on the left {a}, in the middle {b}, on the right {c}",
    "{b} in the middle, {a} on the left and {c} on the right",
    "{a} on the left, {b} in the center and {c} on the right",
    "on the left {a}, in the center {b}, on the right {c}",
    "{b} in the centre, {a} on the left and {c} on the right",
    "{b} with {a} on its left and {c} on its right",
    "{b} to the right of {a} and to the left of {c}",
    "{b} between {a} and {c}",
)
"""a, b and c stand from left to right; what a thing is between is named in this order too."""
ALONE = ("alone", "on its own", "by itself")
MIDDLE = ("in the middle", "in the center", "in the centre")
EDGES = ("on the left", "on the right")
"""Where a solid stands that is the only one."""
JOINTS = (", ", ". ", "; ", " & ", " + ")
NOT_OPENED = ("from ", "left ", "right ", "to ", "on ", "in ", *IN_FRONT_OF, *BEHIND)
"""What begins like this is not introduced by "a photo of"."""
