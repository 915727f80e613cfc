//! The macro that turns a table of messages into an enum with `decode` and `encode`.

/// Declares one direction of the protocol. Fields are written in the order they are declared in.
macro_rules! messages {
    (
        $(#[$enum_doc:meta])*
        pub enum $name:ident<'a> {
            $(
                $(#[$doc:meta])*
                $kind:literal => $variant:ident {
                    $( $(#[$field_doc:meta])* $field:ident: $ty:ty, )*
                }
            )*
        }
    ) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name<'a> {
            $( $(#[$doc])* $variant { $( $(#[$field_doc])* $field: $ty, )* }, )*
        }

        impl<'a> $name<'a> {
            /// Every kind of this direction and its name, in the order of the table.
            pub const KINDS: &'static [(u8, &'static str)] =
                &[ $( ($kind, stringify!($variant)), )* ];

            /// Reads the message that a frame holds; its fields borrow from the frame.
            #[inline]
            pub fn decode(frame: $crate::frame::RawFrame<'a>)
                -> Result<Self, $crate::codec::DecodeError>
            {
                #[allow(unused_imports)]
                use $crate::codec::{DecodeError, Field, Reader};
                #[allow(unused_mut)]
                let mut reader = Reader::new(frame.body);
                let message = match frame.kind {
                    $( $kind => Self::$variant { $( $field: Field::read(&mut reader)?, )* }, )*
                    other => return Err(DecodeError::UnknownKind(other)),
                };
                reader.finish()?;
                Ok(message)
            }

            /// Appends the message as one frame.
            #[inline]
            pub fn encode(&self, out: &mut Vec<u8>) {
                #[allow(unused_imports)]
                use $crate::codec::Field;
                match self {
                    $( Self::$variant { $( $field, )* } => {
                        $crate::frame::put(out, $kind, |_out| { $( $field.write(_out); )* });
                    } )*
                }
            }

            /// The message as one frame of its own.
            pub fn to_vec(&self) -> Vec<u8> {
                let mut out = Vec::new();
                self.encode(&mut out);
                out
            }

            /// The message's name, as in PROTOCOL.md.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant { .. } => stringify!($variant), )* }
            }
        }
    };
}
pub(crate) use messages;

/// Declares a struct that is itself a field: its fields in order.
macro_rules! record {
    (
        $(#[$doc:meta])*
        pub struct $name:ident { $( $(#[$field_doc:meta])* $field:ident: $ty:ty, )* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $ty, )* }

        impl<'a> $crate::codec::Field<'a> for $name {
            fn read(reader: &mut $crate::codec::Reader<'a>)
                -> Result<Self, $crate::codec::DecodeError>
            {
                Ok(Self { $( $field: $crate::codec::Field::read(reader)?, )* })
            }
            fn write(&self, out: &mut Vec<u8>) {
                $( $crate::codec::Field::write(&self.$field, out); )*
            }
        }
    };
}
pub(crate) use record;

/// Declares an enum that travels as one integer and refuses values that it does not know.
macro_rules! code {
    (
        $(#[$doc:meta])*
        pub enum $name:ident: $int:ty {
            $( $(#[$value_doc:meta])* $variant:ident = $value:literal, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($int)]
        pub enum $name { $( $(#[$value_doc])* $variant = $value, )* }

        impl $name {
            /// Every value, in the order of the table.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            /// The value's name as in PROTOCOL.md, for logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => stringify!($variant), )* }
            }
        }

        impl<'a> $crate::codec::Field<'a> for $name {
            fn read(reader: &mut $crate::codec::Reader<'a>)
                -> Result<Self, $crate::codec::DecodeError>
            {
                match <$int as $crate::codec::Field>::read(reader)? {
                    $( $value => Ok(Self::$variant), )*
                    _ => Err($crate::codec::DecodeError::BadValue(stringify!($name))),
                }
            }
            fn write(&self, out: &mut Vec<u8>) {
                $crate::codec::Field::write(&(*self as $int), out);
            }
        }
    };
}
pub(crate) use code;
