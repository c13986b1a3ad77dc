//! Writes JPEGs of every kind that has to be decoded: any sampling factors, scans, restart intervals and colours. It shares
//! nothing with the decoder, and all files of one picture have the same coefficients.

use std::f64::consts::PI;

/// What a file's components are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Grey,
    YCbCr,
    Rgb,
    /// Inks, as Adobe writes them: 255 is none.
    Cmyk,
    /// The same, three of them as brightness and differences.
    Ycck,
}

impl Space {
    pub fn components(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::YCbCr | Self::Rgb => 3,
            Self::Cmyk | Self::Ycck => 4,
        }
    }

    /// The samples of a colour.
    fn of(self, [r, g, b]: [f64; 3]) -> [f64; 4] {
        let ycc = |r: f64, g: f64, b: f64| {
            let y = 0.299 * r + 0.587 * g + 0.114 * b;
            [y, 128.0 + 0.564_334 * (b - y), 128.0 + 0.713_267 * (r - y)]
        };
        match self {
            Self::Grey | Self::YCbCr => {
                let [y, cb, cr] = ycc(r, g, b);
                [y, cb, cr, 0.0]
            }
            Self::Rgb => [r, g, b, 0.0],
            // With some black ink: light * 255 / k, k being what black lets through.
            Self::Cmyk => [r * 255.0 / BLACK, g * 255.0 / BLACK, b * 255.0 / BLACK, BLACK],
            Self::Ycck => {
                // Of the inks themselves, 255 minus what they let through.
                let [y, cb, cr] =
                    ycc(255.0 - r * 255.0 / BLACK, 255.0 - g * 255.0 / BLACK, 255.0 - b * 255.0 / BLACK);
                [y, cb, cr, BLACK]
            }
        }
    }
}

/// What black ink lets through, of 255.
const BLACK: f64 = 240.0;

/// One scan: its components, and of progressive files first and last coefficient, bits of before, bits left for later.
#[derive(Debug, Clone)]
pub struct Scan {
    pub components: Vec<usize>,
    pub band: [usize; 2],
    pub bits: [u8; 2],
}

/// All of each component in one scan after the other.
pub fn sequential(scans: &[&[usize]]) -> Vec<Scan> {
    scans
        .iter()
        .map(|components| Scan { components: components.to_vec(), band: [0, 63], bits: [0, 0] })
        .collect()
}

/// First coefficients of everything, then bands of each component; the last bit of everything comes by itself.
pub fn progressive(components: usize, is_interleaved: bool) -> Vec<Scan> {
    let all: Vec<usize> = (0..components).collect();
    let scan = |components: &[usize], band, bits| Scan { components: components.to_vec(), band, bits };
    let firsts = |bits| -> Vec<Scan> {
        all.chunks(if is_interleaved { components } else { 1 }).map(|part| scan(part, [0, 0], bits)).collect()
    };
    let mut scans = firsts([0, 1]);
    for (band, bits) in [([1, 5], [0, 2]), ([6, 63], [0, 2]), ([1, 63], [2, 1])] {
        scans.extend(all.iter().map(|component| scan(&[*component], band, bits)));
    }
    scans.extend(firsts([1, 0]));
    scans.extend(all.iter().map(|component| scan(&[*component], [1, 63], [1, 0])));
    scans
}

/// The whole of a file but its picture.
#[derive(Debug, Clone)]
pub struct Form {
    pub space: Space,
    pub size: [usize; 2],
    /// Of each component, across and down.
    pub sampling: Vec<[usize; 2]>,
    pub scans: Vec<Scan>,
    pub is_progressive: bool,
    /// Units between restart markers; 0 for none.
    pub restart: usize,
    /// Whether quantisation tables have words instead of bytes.
    pub wide_tables: bool,
    /// Whether Adobe's marker tells the colours; without it they have to be guessed.
    pub adobe: bool,
}

/// Coefficients of a component, block by block.
pub struct Plane {
    sampling: [usize; 2],
    /// Blocks across and down, filled up to whole units of the picture.
    blocks: [usize; 2],
    /// Blocks that hold pixels.
    used: [usize; 2],
    coefficients: Vec<[i32; 64]>,
}

const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Of every coefficient.
const STEP: i32 = 3;

impl Form {
    /// A plain file.
    pub fn new(space: Space, size: [usize; 2], luma: [usize; 2]) -> Self {
        let mut sampling = vec![[1, 1]; space.components()];
        sampling[0] = luma;
        if space.components() == 4 {
            sampling[3] = luma;
        }
        let all: Vec<usize> = (0..space.components()).collect();
        let adobe = !matches!(space, Space::Grey | Space::YCbCr);
        let scans = sequential(&[&all]);
        Self { space, size, sampling, scans, is_progressive: false, restart: 0, wide_tables: false, adobe }
    }

    fn finest(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.sampling.iter().map(|factors| factors[axis]).max().unwrap())
    }

    /// Transforms a picture, which is asked for colours at any place.
    pub fn planes(&self, picture: impl Fn(f64, f64) -> [f64; 3]) -> Vec<Plane> {
        (0..self.sampling.len()).map(|number| self.plane(number, &picture)).collect()
    }

    /// The file of a picture that was transformed with the same size, sampling and colours.
    pub fn write(&self, planes: &[Plane]) -> Vec<u8> {
        let mut file = vec![0xFF, 0xD8];
        if self.adobe {
            let transform = u8::from(self.space == Space::YCbCr) + 2 * u8::from(self.space == Space::Ycck);
            let words = [&b"Adobe\0\x64\0\0\0\0"[..], &[transform]].concat();
            segment(&mut file, 0xEE, &words);
        }
        let mut table = vec![u8::from(self.wide_tables) << 4];
        for _ in 0..64 {
            if self.wide_tables {
                table.push(0);
            }
            table.push(u8::try_from(STEP).unwrap());
        }
        segment(&mut file, 0xDB, &table);
        let [width, height] = self.size.map(|side| u16::try_from(side).unwrap().to_be_bytes());
        let mut frame =
            vec![8, height[0], height[1], width[0], width[1], u8::try_from(planes.len()).unwrap()];
        for (number, [h, v]) in self.sampling.iter().enumerate() {
            let id = if self.space == Space::Rgb && !self.adobe { b"RGB"[number] } else { id(number) };
            frame.extend([id, u8::try_from(h << 4 | v).unwrap(), 0]);
        }
        segment(&mut file, if self.is_progressive { 0xC2 } else { 0xC0 }, &frame);
        segment(&mut file, 0xC4, &huffman(0, (0..12).collect(), 4));
        segment(&mut file, 0xC4, &huffman(0x10, symbols(), 8));
        if self.restart > 0 {
            segment(&mut file, 0xDD, &u16::try_from(self.restart).unwrap().to_be_bytes());
        }
        self.scans.iter().for_each(|scan| self.write_scan(&mut file, planes, scan));
        file.extend([0xFF, 0xD9]);
        file
    }

    fn plane(&self, number: usize, picture: &impl Fn(f64, f64) -> [f64; 3]) -> Plane {
        let (finest, sampling) = (self.finest(), self.sampling[number]);
        let units = [0, 1].map(|axis| self.size[axis].div_ceil(8 * finest[axis]));
        let blocks = [0, 1].map(|axis| units[axis] * sampling[axis]);
        let samples = [0, 1].map(|axis| (self.size[axis] * sampling[axis]).div_ceil(finest[axis]));
        let used = samples.map(|samples| samples.div_ceil(8));
        let scale = [0, 1].map(|axis| finest[axis] as f64 / sampling[axis] as f64);
        // A sample is the colour in its middle; beyond the edge the last one goes on.
        let sample = |x: usize, y: usize| {
            let [x, y] = [x.min(samples[0] - 1), y.min(samples[1] - 1)];
            let place = [(x as f64 + 0.5) * scale[0] - 0.5, (y as f64 + 0.5) * scale[1] - 0.5];
            self.space.of(picture(place[0], place[1]))[number] - 128.0
        };
        let mut coefficients = Vec::new();
        for block in 0..blocks[0] * blocks[1] {
            let (left, top) = (8 * (block % blocks[0]), 8 * (block / blocks[0]));
            coefficients.push(transformed(|x, y| sample(left + x, top + y)));
        }
        Plane { sampling, blocks, used, coefficients }
    }

    fn write_scan(&self, file: &mut Vec<u8>, planes: &[Plane], scan: &Scan) {
        let mut head = vec![u8::try_from(scan.components.len()).unwrap()];
        for component in &scan.components {
            let rgb = self.space == Space::Rgb && !self.adobe;
            head.extend([if rgb { b"RGB"[*component] } else { id(*component) }, 0]);
        }
        let band = scan.band.map(|number| u8::try_from(number).unwrap());
        head.extend([band[0], band[1], scan.bits[0] << 4 | scan.bits[1]]);
        segment(file, 0xDA, &head);
        let units = self.units(planes, scan);
        let mut bits = Bits::default();
        let mut coder = Coder { scan, is_progressive: self.is_progressive, last: [0; 4], run: 0 };
        for (number, unit) in units.iter().enumerate() {
            if self.restart > 0 && number > 0 && number % self.restart == 0 {
                coder.end_run(&mut bits);
                file.append(&mut bits.finish());
                file.extend([0xFF, 0xD0 + u8::try_from((number / self.restart - 1) % 8).unwrap()]);
                coder.last = [0; 4];
            }
            for (component, block) in unit {
                coder.block(&mut bits, *component, &planes[*component].coefficients[*block]);
            }
        }
        coder.end_run(&mut bits);
        file.append(&mut bits.finish());
    }

    /// The blocks of a scan, unit by unit: each with its component.
    fn units(&self, planes: &[Plane], scan: &Scan) -> Vec<Vec<(usize, usize)>> {
        if let [component] = scan.components[..] {
            let plane = &planes[component];
            let rows = 0..plane.used[1];
            return rows
                .flat_map(|y| (0..plane.used[0]).map(move |x| vec![(component, y * plane.blocks[0] + x)]))
                .collect();
        }
        let finest = self.finest();
        let count = [0, 1].map(|axis| self.size[axis].div_ceil(8 * finest[axis]));
        let mut units = Vec::new();
        for number in 0..count[0] * count[1] {
            let (x, y) = (number % count[0], number / count[0]);
            let mut unit = Vec::new();
            for &component in &scan.components {
                let Plane { sampling: [h, v], blocks, .. } = planes[component];
                for row in 0..v {
                    unit.extend((0..h).map(|column| (component, (y * v + row) * blocks[0] + x * h + column)));
                }
            }
            units.push(unit);
        }
        units
    }
}

fn id(number: usize) -> u8 {
    u8::try_from(number + 1).unwrap()
}

fn segment(file: &mut Vec<u8>, marker: u8, content: &[u8]) {
    file.extend([0xFF, marker]);
    file.extend(u16::try_from(content.len() + 2).unwrap().to_be_bytes());
    file.extend(content);
}

/// A table in which every symbol has as many bits.
fn huffman(number: u8, symbols: Vec<u8>, bits: usize) -> Vec<u8> {
    let mut table = vec![number];
    table
        .extend((1..=16).map(|length| if length == bits { u8::try_from(symbols.len()).unwrap() } else { 0 }));
    table.extend(symbols);
    table
}

/// Symbols of all but first coefficients: zeros before one, and its length; ends of blocks, and of runs of blocks.
fn symbols() -> Vec<u8> {
    (0..=255).filter(|symbol| symbol & 15 <= 10).collect()
}

/// The coefficients of 8 x 8 samples, in zigzag order, divided and rounded.
fn transformed(sample: impl Fn(usize, usize) -> f64) -> [i32; 64] {
    let at = |place: usize| (place % 8, place / 8);
    let waves: [f64; 64] = std::array::from_fn(|place| {
        let (x, u) = at(place);
        let scale = if u == 0 { 0.125_f64.sqrt() } else { 0.5 };
        scale * ((2 * x + 1) as f64 * u as f64 * PI / 16.0).cos()
    });
    // Along rows, then along columns.
    let sum = |of: &dyn Fn(usize) -> f64, u: usize| (0..8).map(|x| of(x) * waves[x + 8 * u]).sum::<f64>();
    let rows: [f64; 64] = std::array::from_fn(|place| sum(&|x| sample(x, at(place).1), at(place).0));
    ZIGZAG.map(|place| {
        let (u, v) = at(place);
        (sum(&|y| rows[u + 8 * y], v) / f64::from(STEP)).round() as i32
    })
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    pending: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            self.pending = self.pending << 1 | (value >> bit & 1);
            self.count += 1;
            if self.count == 8 {
                let byte = u8::try_from(self.pending).unwrap();
                self.bytes.push(byte);
                if byte == 0xFF {
                    self.bytes.push(0);
                }
                (self.pending, self.count) = (0, 0);
            }
        }
    }

    fn finish(&mut self) -> Vec<u8> {
        while self.count > 0 {
            self.put(1, 1);
        }
        std::mem::take(&mut self.bytes)
    }
}

struct Coder<'a> {
    scan: &'a Scan,
    is_progressive: bool,
    /// The first coefficient of each component's block before.
    last: [i32; 4],
    /// Blocks that have ended and are not written yet.
    run: u32,
}

fn length(value: i32) -> u32 {
    32 - value.unsigned_abs().leading_zeros()
}

impl Coder<'_> {
    fn block(&mut self, bits: &mut Bits, component: usize, block: &[i32; 64]) {
        let ([first, last], [before, later]) = (self.scan.band, self.scan.bits);
        if first == 0 {
            let value = block[0] >> later;
            if before > 0 {
                bits.put((value & 1).cast_unsigned(), 1);
            } else {
                let difference = value - self.last[component];
                self.last[component] = value;
                bits.put(length(difference), 4);
                magnitude(bits, difference);
            }
        }
        if last > 0 {
            // Coefficients lose bits towards zero.
            let band = block[first.max(1)..=last].iter();
            let band: Vec<i32> = band.map(|value| value.signum() * (value.abs() >> later)).collect();
            if before == 0 { self.band(bits, &band) } else { self.refine(bits, &band) }
        }
    }

    fn band(&mut self, bits: &mut Bits, band: &[i32]) {
        let mut zeros = 0;
        for value in band {
            if *value == 0 {
                zeros += 1;
                continue;
            }
            self.end_run(bits);
            while zeros > 15 {
                symbol(bits, 0xF0);
                zeros -= 16;
            }
            symbol(bits, u8::try_from(zeros << 4 | length(*value)).unwrap());
            magnitude(bits, *value);
            zeros = 0;
        }
        if zeros > 0 {
            self.run += 1;
            if !self.is_progressive || self.run == 0x7FFF {
                self.end_run(bits);
            }
        }
    }

    fn refine(&mut self, bits: &mut Bits, band: &[i32]) {
        let newest = band.iter().rposition(|value| value.abs() == 1);
        let (mut zeros, mut corrections) = (0, Vec::new());
        let put = |bits: &mut Bits, corrections: &mut Vec<u32>| {
            corrections.drain(..).for_each(|correction| bits.put(correction, 1));
        };
        for (at, value) in band.iter().enumerate() {
            if *value == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 && newest.is_some_and(|newest| at <= newest) {
                symbol(bits, 0xF0);
                put(bits, &mut corrections);
                zeros -= 16;
            }
            if value.abs() > 1 {
                corrections.push(value.unsigned_abs() & 1);
                continue;
            }
            symbol(bits, u8::try_from(zeros << 4 | 1).unwrap());
            bits.put(u32::from(*value > 0), 1);
            put(bits, &mut corrections);
            zeros = 0;
        }
        if zeros > 0 || !corrections.is_empty() {
            symbol(bits, 0);
            put(bits, &mut corrections);
        }
    }

    fn end_run(&mut self, bits: &mut Bits) {
        if self.run > 0 {
            let count = self.run.ilog2();
            symbol(bits, u8::try_from(count << 4).unwrap());
            bits.put(self.run & ((1 << count) - 1), count);
            self.run = 0;
        }
    }
}

fn symbol(bits: &mut Bits, symbol: u8) {
    // Their order is that of their numbers, of which every sixteen lack five.
    bits.put(u32::from(symbol >> 4) * 11 + u32::from(symbol & 15), 8);
}

fn magnitude(bits: &mut Bits, value: i32) {
    let count = length(value);
    let value = if value < 0 { value - 1 } else { value };
    bits.put(value.cast_unsigned() & ((1 << count) - 1), count);
}
