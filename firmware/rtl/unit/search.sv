// The search at the end of a token, bit for bit as `cptr_core::recall`: every remembered place but the newest 12 gets a
// distance, one a cycle, and the nearest stay in a chain.
module unit_search #(
  parameter int unsigned WORDS = 4,
  parameter int unsigned TOKENS = 1024,
  parameter int unsigned PLACES = 64,
  parameter int unsigned SLOT = $clog2(TOKENS),
  parameter int unsigned WORD = $clog2(WORDS)
) (
  input  logic                   clk,
  input  logic                   rst_n,
  // Slots in use, 64 to TOKENS; places that are kept, 1 to PLACES.
  input  logic [SLOT:0]          slots,
  input  logic [$clog2(PLACES):0] candidates,
  input  logic                   clear,
  input  logic                   start,
  output logic                   done,
  input  logic [32*WORDS-1:0]    now,
  output logic [SLOT-1:0]        slot,
  output logic [SLOT-1:0]        complete,
  output logic [31:0]            reach,
  output logic [$clog2(PLACES):0] found,
  output logic [PLACES*32-1:0]   nearest,
  // The window for software: signatures, distances, and the state between tokens; a bit each says what is written.
  input  logic                   window_read,
  input  logic                   window_past,
  input  logic [2:0]             window_write,
  input  logic [SLOT+WORD-1:0]   window_address,
  input  logic [31:0]            window_data,
  output logic [31:0]            window_word
);
  localparam int unsigned NEWEST = 12;
  localparam int unsigned BITS = 32 * WORDS;
  localparam int unsigned FIRST = (WORDS < 4) ? 1 : WORDS / 4;
  localparam int unsigned TIMES = $clog2(WORDS / FIRST);
  localparam int unsigned COUNT = $clog2(BITS + 1);
  // Of a place of which nothing is known, half of the bits always differ.
  localparam logic [63:0] UNKNOWN = (64'(BITS) * (64'd32 << 22)) / 64'd19;

  typedef enum logic [2:0] {IDLE, CLEAR, STORE, AGES, DRAIN, LAST} state_t;
  state_t state;
  logic [SLOT:0] age, cleared;
  logic [7:0] wait_steps;

  logic [BITS-1:0] signature, changed;
  logic [31:0] past;
  logic [SLOT+1:0] wrapped;

  // Where to look, if that is before the slot or after it; where that is; what is read; xor, from the word whose turn
  // it is; ones of half words; of words; of the part looked at and of all; both distances; the one that counts.
  logic [9:0] valid;
  logic [SLOT-1:0] before_1, wrapped_1, back_2, place_2, place_10;
  logic fits_1;
  logic [15:0] age_less_one_10;
  logic [BITS-1:0] differ_4, turned_5;
  logic [2*WORDS*5-1:0] counts_6;
  logic [WORDS*6-1:0] counts_7;
  logic [COUNT-1:0] all_7, all_8, few_7, few_8;
  logic [34:0] past_4;
  logic [31:0] old_5, old_6, old_7, old_8, look_9, whole_9, past_10;
  logic [32:0] reach_further;
  logic [31:0] beyond;
  assign reach_further = {1'b0, reach} + (33'(BITS) << 17);

  logic [WORD-1:0] first_word;
  assign first_word = WORD'(32'(slot) * FIRST);
  always_comb begin
    all_7 = '0;
    for (int i = 0; i < WORDS; i++) all_7 = all_7 + COUNT'(counts_7[6*i+:6]);
    few_7 = '0;
    for (int i = 0; i < FIRST; i++) few_7 = few_7 + COUNT'(counts_7[6*i+:6]);
  end
  function automatic logic [4:0] ones(input logic [15:0] bits);
    ones = '0;
    for (int i = 0; i < 16; i++) ones = ones + 5'(bits[i]);
  endfunction
  for (genvar i = 0; i < 2 * WORDS; i++) begin : halves
    always_ff @(posedge clk) counts_6[5*i+:5] <= ones(turned_5[16*i+:16]);
  end
  for (genvar i = 0; i < WORDS; i++) begin : word_counts
    always_ff @(posedge clk) counts_7[6*i+:6] <= 6'(counts_6[10*i+:5]) + 6'(counts_6[10*i+5+:5]);
  end
  wire [40:0] past_45 = 41'(past_4) + (41'(past_4) << 3);
  always_ff @(posedge clk) begin
    beyond <= reach_further[32] ? 32'hffff_ffff : reach_further[31:0];
    wrapped <= {2'd0, slot} + {1'b0, slots};
    fits_1 <= {1'b0, slot} >= age;
    before_1 <= SLOT'({1'b0, slot} - age);
    wrapped_1 <= SLOT'(wrapped - {1'b0, age});
    back_2 <= fits_1 ? before_1 : wrapped_1;
    differ_4 <= signature ^ now;
    past_4 <= {3'd0, past} + {1'b0, past, 2'd0};
    turned_5 <= BITS'({differ_4, differ_4} >> {first_word, 5'd0});
    old_5 <= past_45[37:6];
    {all_8, few_8, old_8, old_7, old_6} <= {all_7, few_7, old_7, old_6, old_5};
    look_9 <= (32'(few_8) << (22 + TIMES)) + old_8;
    whole_9 <= (32'(all_8) << 22) + old_8;
    past_10 <= look_9 <= beyond ? whole_9 : look_9;
  end
  unit_delay #(.WIDTH(SLOT), .CYCLES(2)) place_line (
    .clk, .in(SLOT'(slots - (SLOT + 1)'(1) - age)), .out(place_2)
  );
  unit_delay #(.WIDTH(SLOT), .CYCLES(8)) later_place_line (.clk, .in(place_2), .out(place_10));
  unit_delay #(.WIDTH(16), .CYCLES(10)) age_line (.clk, .in(16'(age) - 16'd1), .out(age_less_one_10));

  unit_ram #(.WIDTH(BITS), .DEPTH(TOKENS)) signatures (
    .clk, .read(valid[1] | window_read),
    .read_address(window_read ? window_address[SLOT+WORD-1:WORD] : back_2),
    .read_data(signature), .write(state == STORE | (window_write[0])),
    .write_address(state == STORE ? slot : window_address[SLOT+WORD-1:WORD]),
    .write_data(state == STORE ? now : changed)
  );
  unit_ram #(.WIDTH(32), .DEPTH(TOKENS)) distances (
    .clk, .read(valid[1] | window_read), .read_address(window_read ? window_address[SLOT-1:0] : place_2),
    .read_data(past), .write(valid[9] | state == CLEAR | window_write[1]),
    .write_address(state == CLEAR ? cleared[SLOT-1:0] : window_write[1] ? window_address[SLOT-1:0] : place_10),
    .write_data(state == CLEAR ? UNKNOWN[31:0] : window_write[1] ? window_data : past_10)
  );
  logic [31:0] signature_word;
  unit_pick #(.N(WORDS), .WIDTH(32)) pick_word (
    .entries(signature), .index(window_address[WORD-1:0]), .entry(signature_word)
  );
  assign window_word = window_past ? past : signature_word;
  for (genvar i = 0; i < WORDS; i++) begin : window_words
    assign changed[32*i+:32] = window_address[WORD-1:0] == WORD'(i) ? window_data : signature[32*i+:32];
  end

  // The nearest: a distance in 64ths of a bit and the age less one; the smallest keys.
  logic [PLACES-1:0] full;
  logic [PLACES*32-1:0] keys;
  unit_rank_chain #(.K(PLACES), .KEY(32), .DATA(1)) chain (
    .clk, .rst_n, .clear(state == CLEAR | state == STORE), .now(1'b1), .enabled({PLACES{1'b1}}),
    .in_valid(valid[9]), .in_key(~{past_10[31:16], age_less_one_10}), .in_data(1'b0),
    .out_valid(), .out_key(), .out_data(), .full, .keys, .data()
  );
  assign nearest = ~keys;
  logic [$clog2(PLACES)-1:0] last_place;
  always_ff @(posedge clk) last_place <= ($clog2(PLACES))'(candidates - 1'b1);
  logic [31:0] last_key, picked_key;
  logic last_full, picked_full;
  always_ff @(posedge clk) {last_full, last_key} <= {picked_full, picked_key};
  logic [PLACES*33-1:0] marked;
  for (genvar i = 0; i < PLACES; i++) begin : marks
    assign marked[33*i+:33] = {full[i], nearest[32*i+:32]};
  end
  unit_pick #(.N(PLACES), .WIDTH(33)) pick_last (
    .entries(marked), .index(last_place), .entry({picked_full, picked_key})
  );

  logic [SLOT-1:0] last_slot, next_slot;
  logic [$clog2(PLACES):0] searched;
  always_ff @(posedge clk) begin
    last_slot <= SLOT'(slots - 1'b1);
    next_slot <= slot == last_slot ? '0 : slot + 1'b1;
    searched <= 32'(complete) > NEWEST ? ($clog2(PLACES) + 1)'(32'(complete) - NEWEST) : '0;
    if (state == CLEAR) begin
      {slot, complete, found} <= '0;
      reach <= 32'hffff_ffff;
    end else if (window_write[2]) begin
      case (window_address[1:0])
        2'd0: slot <= window_data[SLOT-1:0];
        2'd1: complete <= window_data[SLOT-1:0];
        2'd2: reach <= window_data;
        default: ;
      endcase
    end else if (state == LAST) begin
      reach <= last_full ? {last_key[31:16], 16'd0} : 32'hffff_ffff;
      found <= last_full ? candidates : searched;
      slot <= next_slot;
      if (complete < last_slot) complete <= complete + 1'b1;
    end
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {age, cleared, wait_steps, valid} <= '0;
      done <= 1'b0;
    end else begin
      done <= 1'b0;
      valid <= {valid[8:0], state == AGES};
      case (state)
        IDLE: begin
          cleared <= '0;
          if (clear) state <= CLEAR;
          else if (start) state <= STORE;
        end
        CLEAR: begin
          cleared <= cleared + 1'b1;
          if (cleared == (SLOT + 1)'(TOKENS - 1)) begin
            state <= IDLE;
            done <= 1'b1;
          end
        end
        STORE: begin
          age <= {1'b0, complete};
          wait_steps <= '0;
          state <= 32'(complete) > NEWEST ? AGES : LAST;
        end
        AGES: begin
          age <= age - 1'b1;
          if (age == (SLOT + 1)'(NEWEST + 1)) state <= DRAIN;
        end
        DRAIN: begin
          wait_steps <= wait_steps + 8'd1;
          if (wait_steps == 8'(PLACES + 15)) state <= LAST;
        end
        default: begin
          state <= IDLE;
          done <= 1'b1;
        end
      endcase
    end
  end
endmodule
