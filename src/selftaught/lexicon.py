"""What the words behind a number do to it, as patterns. Words are an open class: one that is not listed is a unit.

Each pattern matches a word as a whole where it is one word. Listed are English words, and of other languages those
that models write behind numbers most.
"""

import re

from selftaught.signs import LETTER

NUMBER_WORD = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    r"|(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?"
    r"|half|an?\s++(?:half|quarter|third|dozen|hundred|thousand|million))\b"
    r"(?!-(?!(?:one|two|three|four|five|six|seven|eight|nine)\b)[^\W\d_])"
)
"""A number in words; "one-way" is none."""
HEDGES = (
    r"(?:(?:about|maybe|perhaps|possibly|even|only|also|then|another|exactly|approximately|around|roughly|nearly|almost"
    r"|plus|and|or|just|probably|remaining|additional|extra|further|more|less|of|to|with)\b\s*+){0,3}"
)
"""Words that may stand before a number without changing it, at most three."""
LETTERS = "mgshlLWVJCFc"
"""Single letters that are units where they touch a number; any other may be a variable (3n)."""
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
"""Words that make a number one of several, or a part of a calculation or of an amount."""
ADDS = re.compile(
    r"(?:as\s+well\s+as|along\s+with|together\s+with|followed\s+by|and/or|and\s+an?\s"
    r"|with\s+(?:a\s+)?(?:remainder|rest)|in\s+(?:hundred|thousand|million|billion|dozen|lakh|crore)s"
    r"|\(\s*(?:in\s+)?(?:hundred|thousand|million|billion|dozen)s?\b)\b",
    re.IGNORECASE,
)
"""Words behind a number that add to it."""
ADDS_LATER = re.compile(
    r"\b(?:remainder|rem|r)\b[.:]?\s*(?:of|is|=)?\s*\d|(?:余|ост\.?)\s*\d|\b(?:repeating|recurring|rep|bar)\b"
    r"|\bin\s+(?:hundred|thousand|million|billion|dozen|lakh|crore)s\b|\bbase\s+\w|\b(?:mod|modulo|squared|cubed)\b"
    r"|\b(?:plus|minus|times)\s+[\dxyzn]\b",
    re.IGNORECASE,
)
"""Anywhere in the sentence behind a number: what is left over, repeats, or is counted in thousands."""
SCALES = re.compile(
    r"(?:half|halves|quarters?|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|\w*tenths?|\w*hundredths?"
    r"|\w*thousandths?|\w*illionths?|\w*illions?|mil|mille|mn|bil|mii|bin|thou|couple|myriads?|tens|twelves|kilos?"
    r"|tá|cent|mega|giga|umpteen|[MK]USD|[GK]'?s|crs?|десят\w+|сот\w+"
    r"|(?:dozen|hundred|thousand|lakh|crore)-\w+)(?:-\w+)*\Z",
    re.IGNORECASE,
)
"""Words of scale that are not read: the number by itself is none."""
REASON = re.compile(r"(?:because|since|as|so|which|while|where|who|whose|that|therefore|thus|hence)\Z", re.I)
"""Words with which a reason begins: its numbers say something else."""
CLAUSE = re.compile(
    r"(?:is|are|was|were|will|would|has|have|had|can|could|should|she|he|they|it|we|i|you|there|this|not|but|and)\Z",
    re.I,
)
"""Words with which a clause begins."""
PLACE = re.compile(r"(?:for|in|on|at|after|before|from|within|during|every)\Z", re.IGNORECASE)
"""Words that say of how much the number is, behind a unit: 18 dollars for 3 days."""
JOINS = re.compile(r"(?:with|by|until|till|out|times|over|of|per|than)\Z", re.IGNORECASE)
"""Words that join a number behind them to the one before."""
