"""Patterns for the words after a number, by their effect on it. A word that no pattern lists is a unit.

A pattern for single words matches complete words. The lists hold English words, and the words of other languages that
models write most often after numbers.
"""

import re

from selftaught.grading.signs import LETTER

NUMBER_WORD = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    r"|(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?"
    r"|half|an?\s++(?:half|quarter|third|dozen|hundred|thousand|million))\b"
    r"(?!-(?!(?:one|two|three|four|five|six|seven|eight|nine)\b)[^\W\d_])"
)
"""A number in words; "one-way" is not one."""
HEDGES = (
    r"(?:(?:about|maybe|perhaps|possibly|even|only|also|then|another|exactly|approximately|around|roughly|nearly|almost"
    r"|plus|and|or|just|probably|remaining|additional|extra|further|more|less|of|to|with)\b\s*+){0,3}"
)
"""At most three words that may come before a number without changing it."""
LETTERS = "mgshlLWVJCFc"
"""Single letters that are units where they touch a number; other letters may be variables (3n)."""
ABBREVIATION = re.compile(
    r"(?:[kcmnd]m|[km]g|lbs?|oz|ft|in|yds?|mi|[mk]ph|kmh|hrs?|min|m?sec|ms|[ap]m|st|nd|rd|th|[mcd][lL]|[kKMGT]B"
    r"|[kMG]?Wh?|[kMG]?Hz|k?Pa|cc|pts?|qt|gal|tsp|cal|pcs|yrs?|wks?|mo|px|rpm|USD|EUR|GBP|deg|rad|mol|sq|ha|hp|dB"
    r"|ppm|bps|cts)\Z"
)
"""Units of two or three letters that may touch a number; other letters may be variables (3ab)."""
CHANGES = re.compile(
    r"(?:or|nor|to|through|thru|versus|vs|plus|minus|squared|cubed|factorial|choose|mod|modulo|divided|multiplied|point"
    r"|repeating|recurring|periodic|pi|sin|cos|tan|log|ln|exp|sqrt|score|gross|grand"
    r"|oder|und|ou|et|bis|y|e|og|och|или|и|또는"
    r"|dx|dy|dt|arab|kharab|kk|mm|mill|tril|thous|ten-thousands|googols?"
    r"|половин\w*|demie?|rưỡi|buçuk|setengah|ครึ่ง|halv|halb\w*|einhalb|medi[oa]|mezz[oa]|mei[oa]|ونصف|نصف|וחצי"
    r"|\w*(?:[半几幾多余餘或到至]|分之|次方|阶乘|階乘|一半|的平方|的立方|제곱(?!미터)|절반).*"
    r"|(?:点|點|块|元|角|时|時|分)[零一二两三四五六七八九十].*|반(?:입니다|이다)?|[兆十십조块](?:[一-九]\w*)?)\Z"
    rf"|.*{LETTER}(?:[兆]).*",
    re.IGNORECASE,
)
"""Words that make a number one of several, or a part of a calculation or of a larger amount."""
ADDS = re.compile(
    r"(?:as\s+well\s+as|along\s+with|together\s+with|followed\s+by|and/or|and\s+an?\s"
    r"|with\s+(?:a\s+)?(?:remainder|rest)|in\s+(?:hundred|thousand|million|billion|dozen|lakh|crore)s"
    r"|\(\s*(?:in\s+)?(?:hundred|thousand|million|billion|dozen)s?\b)\b",
    re.IGNORECASE,
)
"""Words after a number that add to it."""
ADDS_LATER = re.compile(
    r"\b(?:remainder|rem|r)\b[.:]?\s*(?:of|is|=)?\s*\d|(?:余|ост\.?)\s*\d|\b(?:repeating|recurring|rep|bar)\b"
    r"|\bin\s+(?:hundred|thousand|million|billion|dozen|lakh|crore)s\b|\bbase\s+\w|\b(?:mod|modulo|squared|cubed)\b"
    r"|\b(?:plus|minus|times)\s+[\dxyzn]\b",
    re.IGNORECASE,
)
"""Text anywhere later in a number's sentence: a remainder, repeating digits, or "in thousands"."""
SCALES = re.compile(
    r"(?:half|halves|quarters?|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|\w*tenths?|\w*hundredths?"
    r"|\w*thousandths?|\w*illionths?|\w*illions?|mil|mille|mn|bil|mii|bin|thou|couple|myriads?|tens|twelves|kilos?"
    r"|tá|cent|mega|giga|umpteen|[MK]USD|[GK]'?s|crs?|десят\w+|сот\w+"
    r"|(?:dozen|hundred|thousand|lakh|crore)-\w+)(?:-\w+)*\Z",
    re.IGNORECASE,
)
"""Words of scale that no reader multiplies by: a number with one of them is not read."""
REASON = re.compile(r"(?:because|since|as|so|which|while|where|who|whose|that|therefore|thus|hence)\Z", re.I)
"""Words that begin a reason; the numbers in it are not the answer."""
CLAUSE = re.compile(
    r"(?:is|are|was|were|will|would|has|have|had|can|could|should|she|he|they|it|we|i|you|there|this|not|but|and)\Z",
    re.I,
)
"""Words that begin a clause."""
PLACE = re.compile(r"(?:for|in|on|at|after|before|from|within|during|every)\Z", re.IGNORECASE)
"""Words after a unit that relate the number to another one: 18 dollars for 3 days."""
JOINS = re.compile(r"(?:with|by|until|till|out|times|over|of|per|than)\Z", re.IGNORECASE)
"""Words that join the number after them to the number before them."""
