//! Writes TIFFs of every kind that has to be decoded, or refused.

/// A picture's description.
#[derive(Debug, Clone)]
pub struct Form {
    /// With 64-bit offsets.
    pub big: bool,
    pub big_endian: bool,
    pub size: [usize; 2],
    pub photometric: u64,
    pub bits: usize,
    /// Samples of a pixel.
    pub samples: usize,
    /// Whether each sample of all pixels comes by itself.
    pub planar: bool,
    /// Pixels across and down of a strip, or of a tile.
    pub part: [usize; 2],
    pub tiles: bool,
    pub compression: u64,
    pub predictor: u64,
    /// More entries: tags and their numbers.
    pub more: Vec<(u64, Vec<u64>)>,
}

impl Form {
    /// A plain file of one strip.
    pub fn new(size: [usize; 2], photometric: u64, samples: usize, bits: usize) -> Self {
        Self {
            big: false,
            big_endian: false,
            size,
            photometric,
            bits,
            samples,
            planar: false,
            part: size,
            tiles: false,
            compression: 1,
            predictor: 1,
            more: Vec::new(),
        }
    }

    /// The file of samples, which are asked for by pixel and number.
    pub fn write(&self, sample: impl Fn(usize, usize, usize) -> u16) -> Vec<u8> {
        let [across, down] = [0, 1].map(|axis| self.size[axis].div_ceil(self.part[axis]));
        let planes = if self.planar { self.samples } else { 1 };
        let mut parts = Vec::new();
        for plane in 0..planes {
            let numbers = if self.planar { plane..plane + 1 } else { 0..self.samples };
            for part in 0..across * down {
                let (left, top) = (part % across * self.part[0], part / across * self.part[1]);
                let rows = if self.tiles { self.part[1] } else { self.part[1].min(self.size[1] - top) };
                let mut bytes = Vec::new();
                for y in top..top + rows {
                    let at =
                        |x: usize, number| sample(x.min(self.size[0] - 1), y.min(self.size[1] - 1), number);
                    let row: Vec<Vec<u16>> = (left..left + self.part[0])
                        .map(|x| numbers.clone().map(|number| at(x, number)).collect())
                        .collect();
                    self.pack(&row, &mut bytes);
                }
                parts.push(self.compress(&bytes));
            }
        }
        self.assemble(&parts)
    }

    /// Samples of a row, filled up to a whole byte.
    fn pack(&self, row: &[Vec<u16>], bytes: &mut Vec<u8>) {
        let (mut pending, mut count) = (0_u64, 0);
        let mut last = vec![0; row[0].len()];
        for pixel in row {
            for (sample, last) in pixel.iter().zip(&mut last) {
                let difference = sample.wrapping_sub(if self.predictor == 2 { *last } else { 0 });
                *last = *sample;
                if self.bits == 16 {
                    bytes.extend(self.number(difference.into(), 2));
                    continue;
                }
                pending = pending << self.bits | u64::from(difference) & ((1 << self.bits) - 1);
                count += self.bits;
                while count >= 8 {
                    count -= 8;
                    bytes.push((pending >> count & 255) as u8);
                }
            }
        }
        if count > 0 {
            bytes.push((pending << (8 - count) & 255) as u8);
        }
    }

    fn compress(&self, bytes: &[u8]) -> Vec<u8> {
        match self.compression {
            // LZW of 9 bits a code, which a clear code every now and then keeps from growing.
            5 => {
                let mut bits: Vec<bool> = Vec::new();
                let mut put = |code: u16| bits.extend((0..9).rev().map(|bit| code >> bit & 1 == 1));
                for chunk in bytes.chunks(200) {
                    put(256);
                    chunk.iter().for_each(|byte| put((*byte).into()));
                }
                put(257);
                bits.chunks(8)
                    .map(|bits| bits.iter().zip(0..).map(|(bit, at)| u8::from(*bit) << (7 - at)).sum())
                    .collect()
            }
            // zlib's blocks that are stored as they are.
            8 => {
                let mut stored = vec![0x78, 1];
                let chunks = bytes.chunks(0xFFFF);
                let last = chunks.len() - 1;
                for (number, chunk) in chunks.enumerate() {
                    let length = u16::try_from(chunk.len()).unwrap();
                    stored.push(u8::from(number == last));
                    stored.extend(length.to_le_bytes());
                    stored.extend((!length).to_le_bytes());
                    stored.extend(chunk);
                }
                let sums = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
                    let a = (a + u32::from(*byte)) % 65_521;
                    (a, (a + b) % 65_521)
                });
                stored.extend((sums.1 << 16 | sums.0).to_be_bytes());
                stored
            }
            32_773 => bytes
                .chunks(128)
                .flat_map(|chunk| [&[u8::try_from(chunk.len() - 1).unwrap()], chunk].concat())
                .collect(),
            _ => bytes.to_vec(),
        }
    }

    fn number(&self, number: u64, bytes: usize) -> Vec<u8> {
        let mut all = number.to_le_bytes()[..bytes].to_vec();
        if self.big_endian {
            all.reverse();
        }
        all
    }

    /// What the directory says, by tag; where the parts are is not known yet.
    fn entries(&self, parts: &[Vec<u8>]) -> Vec<(u64, Vec<u64>)> {
        let [width, height] = self.part.map(|side| side as u64);
        let lengths = parts.iter().map(|part| part.len() as u64).collect();
        let mut entries = vec![
            (256, vec![self.size[0] as u64]),
            (257, vec![self.size[1] as u64]),
            (258, vec![self.bits as u64; self.samples]),
            (259, vec![self.compression]),
            (262, vec![self.photometric]),
            (277, vec![self.samples as u64]),
            (284, vec![if self.planar { 2 } else { 1 }]),
            (317, vec![self.predictor]),
            (self.starts(), vec![0; parts.len()]),
            (if self.tiles { 325 } else { 279 }, lengths),
        ];
        if self.tiles {
            entries.extend([(322, vec![width]), (323, vec![height])]);
        } else {
            entries.push((278, vec![height]));
        }
        entries.extend(self.more.clone());
        entries.sort_by_key(|(tag, _)| *tag);
        entries
    }

    /// The tag of where the parts are.
    fn starts(&self) -> u64 {
        if self.tiles { 324 } else { 273 }
    }

    /// A file whose directory comes first, then its lists, then its parts.
    pub fn assemble(&self, parts: &[Vec<u8>]) -> Vec<u8> {
        let word = if self.big { 8 } else { 4 };
        let mut entries = self.entries(parts);
        // Places are words; palettes and the rest 16-bit numbers; JPEG tables bytes.
        let kind = |tag: u64| match tag {
            273 | 279 | 324 | 325 if self.big => (16, 8),
            273 | 279 | 324 | 325 => (4, 4),
            347 => (7, 1),
            _ => (3, 2),
        };
        let begin = if self.big { 16 } else { 8 };
        let count_bytes = if self.big { 8 } else { 2 };
        let after = begin + count_bytes + entries.len() * (4 + 2 * word) + word;
        let lists: usize = entries
            .iter()
            .map(|(tag, numbers)| numbers.len() * kind(*tag).1)
            .filter(|bytes| *bytes > word)
            .sum();
        let mut next = (after + lists) as u64;
        for (_, numbers) in entries.iter_mut().filter(|(tag, _)| *tag == self.starts()) {
            for (number, part) in numbers.iter_mut().zip(parts) {
                *number = next;
                next += part.len() as u64;
            }
        }
        let mut file = if self.big_endian { b"MM".to_vec() } else { b"II".to_vec() };
        if self.big {
            file.extend(
                [self.number(43, 2), self.number(8, 2), self.number(0, 2), self.number(16, 8)].concat(),
            );
        } else {
            file.extend([self.number(42, 2), self.number(8, 4)].concat());
        }
        file.extend(self.number(entries.len() as u64, count_bytes));
        let mut behind = Vec::new();
        for (tag, numbers) in &entries {
            let (kind, size) = kind(*tag);
            file.extend(
                [self.number(*tag, 2), self.number(kind, 2), self.number(numbers.len() as u64, word)]
                    .concat(),
            );
            let mut value: Vec<u8> = numbers.iter().flat_map(|number| self.number(*number, size)).collect();
            if value.len() > word {
                let place = self.number((after + behind.len()) as u64, word);
                behind.append(&mut value);
                value = place;
            }
            value.resize(word, 0);
            file.append(&mut value);
        }
        file.extend(self.number(0, word));
        file.append(&mut behind);
        parts.iter().for_each(|part| file.extend(part));
        file
    }
}
