//! The cut of a text where its script changes (the `UnicodeScripts` pre-tokenizer).

use std::sync::OnceLock;

use super::unicode::CharSet;

/// Scripts, by their names in regular expressions. Hiragana and Katakana count as Han.
const SCRIPTS: &[&[&str]] = &[
    &["Han", "Hiragana", "Katakana"],
    &["Latin"],
    &["Common"],
    &["Inherited"],
    &["Cyrillic"],
    &["Greek"],
    &["Arabic"],
    &["Hebrew"],
    &["Hangul"],
    &["Devanagari"],
    &["Bengali"],
    &["Thai"],
    &["Tamil"],
    &["Telugu"],
    &["Kannada"],
    &["Malayalam"],
    &["Gujarati"],
    &["Gurmukhi"],
    &["Oriya"],
    &["Sinhala"],
    &["Georgian"],
    &["Armenian"],
    &["Ethiopic"],
    &["Khmer"],
    &["Lao"],
    &["Myanmar"],
    &["Tibetan"],
    &["Mongolian"],
    &["Bopomofo"],
    &["Cherokee"],
    &["Syriac"],
    &["Thaana"],
    &["Runic"],
    &["Ogham"],
    &["Canadian_Aboriginal"],
    &["Yi"],
    &["Braille"],
    &["Coptic"],
    &["Gothic"],
    &["Deseret"],
    &["Tagalog"],
    &["Hanunoo"],
    &["Buhid"],
    &["Tagbanwa"],
    &["Limbu"],
    &["Tai_Le"],
    &["New_Tai_Lue"],
    &["Tai_Tham"],
    &["Tai_Viet"],
    &["Buginese"],
    &["Balinese"],
    &["Sundanese"],
    &["Batak"],
    &["Lepcha"],
    &["Ol_Chiki"],
    &["Vai"],
    &["Nko"],
    &["Tifinagh"],
    &["Glagolitic"],
    &["Javanese"],
    &["Cham"],
    &["Kayah_Li"],
    &["Rejang"],
    &["Lisu"],
    &["Bamum"],
    &["Samaritan"],
    &["Mandaic"],
    &["Meetei_Mayek"],
    &["Phags_Pa"],
    &["Saurashtra"],
    &["Syloti_Nagri"],
    &["Linear_A"],
    &["Linear_B"],
    &["Cypriot"],
    &["Ugaritic"],
    &["Old_Persian"],
    &["Shavian"],
    &["Osmanya"],
    &["Cuneiform"],
    &["Phoenician"],
    &["Kharoshthi"],
    &["Lycian"],
    &["Carian"],
    &["Lydian"],
    &["Avestan"],
    &["Egyptian_Hieroglyphs"],
    &["Imperial_Aramaic"],
    &["Old_South_Arabian"],
    &["Inscriptional_Parthian"],
    &["Inscriptional_Pahlavi"],
    &["Old_Turkic"],
    &["Kaithi"],
    &["Brahmi"],
    &["Chakma"],
    &["Sharada"],
    &["Sora_Sompeng"],
    &["Takri"],
    &["Miao"],
    &["Meroitic_Cursive"],
    &["Meroitic_Hieroglyphs"],
    &["Old_Italic"],
    &["Adlam"],
    &["Osage"],
    &["Newa"],
    &["Bhaiksuki"],
    &["Marchen"],
    &["Tangut"],
    &["Nushu"],
    &["Ahom"],
    &["Anatolian_Hieroglyphs"],
    &["Hatran"],
    &["Multani"],
    &["Old_Hungarian"],
    &["SignWriting"],
    &["Bassa_Vah"],
    &["Caucasian_Albanian"],
    &["Duployan"],
    &["Elbasan"],
    &["Grantha"],
    &["Khojki"],
    &["Khudawadi"],
    &["Mahajani"],
    &["Manichaean"],
    &["Mende_Kikakui"],
    &["Modi"],
    &["Mro"],
    &["Nabataean"],
    &["Old_North_Arabian"],
    &["Old_Permic"],
    &["Pahawh_Hmong"],
    &["Palmyrene"],
    &["Pau_Cin_Hau"],
    &["Psalter_Pahlavi"],
    &["Siddham"],
    &["Tirhuta"],
    &["Warang_Citi"],
];

fn script(c: char) -> Option<usize> {
    static SETS: OnceLock<Vec<CharSet>> = OnceLock::new();
    if c == ' ' {
        return None;
    }
    if c == '\u{30fc}' {
        return Some(0);
    }
    let sets = SETS.get_or_init(|| {
        SCRIPTS
            .iter()
            .map(|names| {
                let class: String = names.iter().map(|n| format!(r"\p{{sc={n}}}")).collect();
                CharSet::parse(&format!("[{class}]")).unwrap_or_else(|_| CharSet::from_ranges(&[]))
            })
            .collect()
    });
    // Unassigned characters and scripts that are not listed go with what is around them, like a space.
    sets.iter().position(|s| s.contains(c))
}

/// Appends the positions in `word` where a script begins; a space belongs to what is before it, and spaces at the start
/// are left out.
pub fn script_cuts(word: &str, cuts: &mut Vec<usize>) {
    let mut last = None;
    for (i, c) in word.char_indices() {
        let Some(s) = script(c) else { continue };
        if last != Some(s) {
            cuts.push(i);
        }
        last = Some(s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_script_exists() {
        for names in SCRIPTS {
            for n in *names {
                assert!(CharSet::parse(&format!(r"\p{{sc={n}}}")).is_ok(), "{n}");
            }
        }
    }

    #[test]
    fn cuts_are_where_the_script_changes() {
        let mut cuts = Vec::new();
        script_cuts("どこで生れ。Yes ok", &mut cuts);
        assert_eq!(cuts, [0, "どこで生れ".len(), "どこで生れ。".len()]);
    }
}
