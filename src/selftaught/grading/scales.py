"""Words of scale in the languages of the problems: "5 million" is 5,000,000. This file holds only data."""

import unicodedata

_BY_POWER = {
    2: "hundred hundreds hundert honderd",
    3: """thousand thousands tausend duizend tusen tusind mila тыс тысяч тысяча тысячи tys tysiące tysięcy tisíc ezer
        mijë nghìn ngàn ribu rb elfu ألف آلاف אלף χιλιάδες हज़ार हजार হাজার ஆயிரம் వేలు వేల""",
    5: "lakh lakhs lac lacs laki लाख লাখ లక్షలు லட்சம்",
    6: """million millions mio mln mill millionen millones millón milhões milhão milioni milione miljoen miljoner milyon
        milion miliony milionów milionů millió milioane triệu juta jt млн миллион миллиона миллионов מיליון مليون ملايين
        εκατομμύρια εκατ""",
    7: "crore crores करोड़ কোটি कोटी కోట్లు கோடி",
    9: """billion billions bn bln mrd mld milliard milliards milliarde milliarden miliardi miliardo miljard miljarder
        milyar miliard miliardy miliar bilhões bilhão tỷ tỉ अरब млрд миллиард миллиарда миллиардов مليار""",
    12: "trillion trillions trn tln triliun trilhões",
    15: "quadrillion quadrillions",
}
_DOZENS = """dozen dozens doz dz dzn dutzend docena docenas douzaine douzaines dúzia dúzias dozzina dozzine dozijn
    dussin dusin tuzin tucet düzine lusin дюжина дюжины дюжин दर्जन"""

POWERS_OF_TEN: dict[str, int | None] = {
    unicodedata.normalize("NFC", word): power
    for power, words in (*_BY_POWER.items(), (None, _DOZENS))
    for word in words.split()
}
"""Word in lower case -> the power of ten that it means, None for a dozen. No letter may follow such a word directly."""

TOUCHING: dict[str, int | None] = {
    **dict.fromkeys("百佰백", 2),
    **dict.fromkeys(["千", "仟", "천", "พัน"], 3),
    **dict.fromkeys(["万", "萬", "만", "หมื่น"], 4),
    "แสน": 5,
    "ล้าน": 6,
    **dict.fromkeys("亿億억", 8),
    **dict.fromkeys(["ダース", "다스", "打", "โหล"], None),
}
"""The same for scripts without spaces: any text may follow such a word directly."""
